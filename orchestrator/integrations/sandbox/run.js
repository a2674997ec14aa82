// Runs one script in the context that it is evaluated in, which has seen no other and sees no second one.
// Everything of the language that is needed after the script has run is taken before: it may replace what it likes.
(function () {
  "use strict";
  const { parse, stringify, rawJSON } = JSON;
  const { fromEntries } = Object;
  const ErrorKind = Error, TypeErrorKind = TypeError, MapKind = Map, SetKind = Set, PromiseKind = Promise;
  const Text = String, FunctionOf = Function;
  const wellFormed = Function.prototype.call.bind(String.prototype.toWellFormed);
  const match = Function.prototype.call.bind(RegExp.prototype.exec);
  const evaluate = eval; // called by another name it runs global code: not strict, `this` is the global object
  const FRAME = /^ *at (?:(\S+) \()?<input>:([0-9]+)/;
  const BODY_STARTS_AT_LINE = 3; // of what `Function` makes of it
  const BELOW = /^ *at (eval|runScript|checkScript) \(/; // nothing of the script's is there
  const MESSAGE_CHARACTERS_MAX = 1000;
  const NOTHING = "InternalError: null"; // what the engine throws when it has no memory for an error, either
  const PARSED = {}; // thrown before the first statement

  // What a value is as JSON where JSON.stringify would leave it out, refuse it, or show it as {}.
  function plain(_key, value) {
    if (value === undefined) return null;
    if (typeof value === "bigint") return rawJSON(Text(value));
    if (value instanceof MapKind) return fromEntries(value);
    if (value instanceof SetKind) return [...value];
    return value;
  }

  // The line of the script that was running, 0 if that can't be told. `ours`: functions that are not the script's.
  function lineOf(error, source, body, ours) {
    for (const frame of Text(error.stack).split("\n")) {
      if (match(BELOW, frame)) break;
      const found = match(FRAME, frame);
      if (found && !ours.includes(found[1])) {
        const line = body ? found[2] - BODY_STARTS_AT_LINE + 1 : +found[2];
        return Math.min(line, source.split("\n").length); // what is missing at its end is missed in what follows
      }
    }
    return 0;
  }

  function describe(thrown, source, body, ours) {
    if (thrown === null) return NOTHING;
    try {
      if (!(thrown instanceof ErrorKind)) return shorten(typeof thrown === "object" ? stringify(thrown) : Text(thrown));
      const line = lineOf(thrown, source, body, ["plain", ...ours]);
      return shorten(`${thrown.name}: ${thrown.message}`) + (line > 0 ? ` (line ${line})` : "");
    } catch {
      return "it has thrown what can't be shown";
    }
  }

  // Also makes one piece of a string that the engine has put together of several: only such can be handed out.
  function shorten(text) {
    return wellFormed(text.slice(0, MESSAGE_CHARACTERS_MAX));
  }

  let outcome = "";

  // -> the value as JSON, or what was thrown, as `outcome` says.
  function runScript(input, source, body, most, java) {
    const $ = parse(input);
    if (java) java.dress($);
    globalThis.$ = $;
    const quiet = () => {};
    globalThis.console = { log: quiet, debug: quiet, info: quiet, warn: quiet, error: quiet };
    outcome = "thrown";
    let text;
    try {
      const value = body ? FunctionOf(source)() : evaluate(source);
      if (value instanceof PromiseKind) throw new TypeErrorKind("the result is a promise, and nothing waits for it");
      text = stringify(value, plain);
    } catch (thrown) {
      return describe(thrown, source, body, java ? java.ours : []);
    }
    if (text === undefined) text = "null"; // of a function or a symbol
    outcome = text.length > most ? "too large" : "value";
    return outcome === "value" ? text : "";
  }

  // -> what keeps it from being parsed, or an empty string. Nothing of it runs.
  function checkScript(source, body) {
    try {
      if (body) FunctionOf(source);
      else {
        globalThis[" parsed"] = PARSED;
        evaluate('throw this[" parsed"];' + source);
      }
    } catch (thrown) {
      return thrown === PARSED ? "" : describe(thrown, source, body, []);
    }
    return "";
  }

  const OFFERED = { runScript, checkScript, outcome: () => outcome };
  return (name, ...given) => OFFERED[name](...given);
})()
