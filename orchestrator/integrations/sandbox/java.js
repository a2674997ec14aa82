// What scripts that were written for Java's collections call: `$.list.get(0)`, `$.map.containsKey("k")`, `"a".equals(b)`.
// The methods stand on prototypes of `$` and what is in it, not on those of the script's own objects and arrays, and only
// those that the script calls somewhere: to all others `$.size` is what the data say. None of them is enumerable.
(function () {
  "use strict";
  const { isArray } = Array;
  const { create, defineProperty, entries, hasOwn, keys, setPrototypeOf, values } = Object;
  const { isInteger } = Number;

  function same(a, b) {
    if (a === b) return true;
    if (typeof a !== "object" || typeof b !== "object" || a === null || b === null || isArray(a) !== isArray(b)) return false;
    const names = keys(a);
    return names.length === keys(b).length && names.every((name) => hasOwn(b, name) && same(a[name], b[name]));
  }

  function within(index, end) {
    if (!isInteger(index) || index < 0 || index >= end) {
      throw new RangeError(`index ${index} is out of bounds for length ${end}`);
    }
    return index;
  }

  function put(map, key, value) { // not by assignment: `__proto__` is a key like any other
    const before = hasOwn(map, key) ? map[key] : null;
    defineProperty(map, key, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
    return before;
  }

  function iterate(list) {
    let next = 0;
    return { hasNext: () => next < list.length, next: () => list[within(next++, list.length)] };
  }

  const LIST = {
    add(...given) { // (value) or (index, value)
      if (given.length < 2) return this.push(given[0]), true;
      this.splice(within(given[0], this.length + 1), 0, given[1]);
    },
    addAll(more) { return this.push(...more), more.length > 0; },
    clear() { this.length = 0; },
    contains(value) { return this.some((item) => same(item, value)); },
    containsAll(list) { return list.every((value) => this.some((item) => same(item, value))); },
    equals(other) { return same(this, other); },
    get(index) { return this[within(index, this.length)]; },
    isEmpty() { return this.length === 0; },
    iterator() { return iterate(this); },
    remove(what) { // an index, or a value
      if (typeof what === "number") return this.splice(within(what, this.length), 1)[0];
      const at = this.findIndex((item) => same(item, what));
      return at >= 0 && (this.splice(at, 1), true);
    },
    set(index, value) {
      const before = this[within(index, this.length)];
      this[index] = value;
      return before;
    },
    size() { return this.length; },
    subList(from, to) { return dress(this.slice(within(from, this.length + 1), within(to, this.length + 1))); },
    toArray() { return [...this]; },
  };

  const MAP = {
    clear() { for (const key of keys(this)) delete this[key]; },
    containsKey(key) { return hasOwn(this, key); },
    containsValue(value) { return values(this).some((item) => same(item, value)); },
    entrySet() {
      return dressList(entries(this).map(([key, value]) => ({ key, value, getKey: () => key, getValue: () => value })));
    },
    equals(other) { return same(this, other); },
    get(key) { return hasOwn(this, key) ? this[key] : null; },
    getOrDefault(key, otherwise) { return hasOwn(this, key) ? this[key] : otherwise; },
    isEmpty() { return keys(this).length === 0; },
    keySet() { return dressList(keys(this)); },
    put(key, value) { return put(this, key, value); },
    putAll(other) { for (const [key, value] of entries(other)) put(this, key, value); },
    putIfAbsent(key, value) {
      if (hasOwn(this, key) && this[key] !== null) return this[key];
      put(this, key, value);
      return null;
    },
    remove(key) {
      const before = hasOwn(this, key) ? this[key] : null;
      delete this[key];
      return before;
    },
    size() { return keys(this).length; },
    values() { return dressList(values(this)); },
  };

  // Those of strings, numbers and booleans stand on the language's own prototypes: there is no other place.
  const STRING = {
    contains(part) { return this.includes(part); },
    equals(other) { return `${this}` === other; },
    equalsIgnoreCase(other) { return typeof other === "string" && this.toLowerCase() === other.toLowerCase(); },
    isEmpty() { return this.length === 0; },
  };
  const NUMBER = {
    doubleValue() { return +this; },
    equals(other) { return +this === other; },
    intValue() { return Math.trunc(this); },
    longValue() { return Math.trunc(this); },
  };
  const BOOLEAN = {
    booleanValue() { return this.valueOf(); },
    equals(other) { return this.valueOf() === other; },
  };

  const list = create(Array.prototype), map = create(Object.prototype);
  const HOMES = [
    [LIST, list], [MAP, map], [STRING, String.prototype], [NUMBER, Number.prototype], [BOOLEAN, Boolean.prototype],
  ];
  const names = [...new Set(HOMES.flatMap(([methods]) => keys(methods)))];
  const ours = [...names, "same", "within", "put", "dress", "dressList"];

  function dressList(array) {
    return setPrototypeOf(array, list);
  }

  function dress(value) {
    if (typeof value !== "object" || value === null) return value;
    for (const key of keys(value)) dress(value[key]);
    return setPrototypeOf(value, isArray(value) ? list : map);
  }

  // `called`: the names of the methods that the script calls, with commas between.
  function lend(called) {
    const wanted = called.split(",");
    for (const [methods, home] of HOMES) {
      for (const name of wanted.filter((name) => hasOwn(methods, name))) {
        defineProperty(home, name, { value: methods[name], writable: true, configurable: true });
      }
    }
    return { dress, ours };
  }

  return { names: names.join(","), lend };
})()
