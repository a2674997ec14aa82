/* Included before everything else that is compiled: reading a field of a struct that is not compiled itself.

   mypyc reads attributes of classes that it has not compiled by PyObject_GetAttr, which looks for the name in the type
   each time: some 160 instructions, a quarter of what applying an entry took. Here, each place in the code remembers
   where in the object the field was that it has read last, and reads it there as long as objects are of the same type
   and nobody has changed the type since. CPython's own interpreter does the same, by the same conditions (PEP 659,
   LOAD_ATTR_SLOT). Anything else, and anything that fails, goes the usual way.

   Only with the interpreter lock, which makes what a place remembers safe to change. */

#if !defined(FIELDS_H) && defined(__GNUC__) && __has_include(<CPy.h>)
#define FIELDS_H

#include <CPy.h>

#if defined(CPyObject_GetAttr) && !defined(Py_GIL_DISABLED) && !defined(MYPYC_LOG_TRACE)

typedef struct {
    PyTypeObject *type;
    PyObject *name;
    Py_ssize_t offset;
    unsigned int version; /* of the type, never used again for another; 0 is none */
    unsigned int misses;
} FieldSite;

/* A place that reads many types, or what is no field, ceases to remember. */
#define FIELD_MISSES_MAX 64

static __attribute__((unused, noinline)) PyObject *read_field_anew(FieldSite *site, PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL || site->misses >= FIELD_MISSES_MAX) {
        return value;
    }
    site->misses++;
    PyTypeObject *type = Py_TYPE(object);
    if (type->tp_getattro != PyObject_GenericGetAttr) {
        return value;
    }
    PyObject *found = _PyType_Lookup(type, name); /* borrowed; makes sure of the type's version */
    if (found == NULL || !Py_IS_TYPE(found, &PyMemberDescr_Type) || type->tp_version_tag == 0) {
        return value;
    }
    PyMemberDescrObject *descriptor = (PyMemberDescrObject *)found;
    PyMemberDef *member = descriptor->d_member;
    /* The descriptor keeps its name, so that no other text can be where that one is while the version is the same. */
    if (member->type == T_OBJECT_EX && (member->flags & ~READONLY) == 0 && descriptor->d_common.d_name == name &&
        PyObject_TypeCheck(object, descriptor->d_common.d_type)) {
        site->type = type;
        site->name = name;
        site->offset = member->offset;
        site->version = type->tp_version_tag;
    }
    return value;
}

static inline __attribute__((unused)) PyObject *read_field(FieldSite *site, PyObject *object, PyObject *name)
{
    PyTypeObject *type = Py_TYPE(object);
    if (site->type == type && site->version == type->tp_version_tag && site->name == name) {
        PyObject *value = *(PyObject **)((char *)object + site->offset);
        if (value != NULL) {
            return Py_NewRef(value);
        }
    }
    return read_field_anew(site, object, name);
}

#undef CPyObject_GetAttr
#define CPyObject_GetAttr(object, name)         \
    ({                                          \
        static FieldSite site;                  \
        read_field(&site, (object), (name));    \
    })

#endif
#endif
