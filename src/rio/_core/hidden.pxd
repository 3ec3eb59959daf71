# cython: language_level=3
"""Classes of which Python code can make no objects: the core makes them, and nothing checks what an
object would lack that it has not made.
"""

cdef extern from *:
    """
    static PyObject *rio_refuse_to_make(PyTypeObject *type, PyObject *args, PyObject *options) {
        PyErr_Format(PyExc_TypeError, "only rio makes objects of the class %s", type->tp_name);
        return NULL;
    }
    static void rio_hide(PyObject *type) {
        ((PyTypeObject *)type)->tp_new = rio_refuse_to_make;
        ((PyTypeObject *)type)->tp_vectorcall = NULL;
    }
    """
    void hide "rio_hide"(object type)
