/* `Portal`: one work queue by hand, for probing: the caller's own bytes go in, its memory comes
 * back.
 *
 * Danger: the device reads and writes the memory until `close` has returned. Decision: the buffer
 * is held until then, so that nobody can unmap it; a `close` that never returns keeps it. */
#include "py_model.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../core/pc_portal_model.h"

typedef struct {
    PyObject_HEAD pc_portal *portal; /* NULL: not open, or closed */
    Py_buffer memory;
    int held;
} PortalObject;

static int portal_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    PortalObject *self = (PortalObject *)object;
    PyObject *buffer;
    (void)kwargs;
    if (self->held) {
        py_fail(PC_ERROR_BUSY, "portal has its memory already");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "O", &buffer))
        return -1;
    if (PyObject_GetBuffer(buffer, &self->memory, PyBUF_WRITABLE) != 0)
        return -1;
    self->held = 1;
    if ((uintptr_t)self->memory.buf % PC_DESCRIPTOR_BYTES != 0) {
        py_fail(PC_ERROR_INVALID, "memory is not aligned to 64 bytes");
        return -1;
    }
    return 0;
}

static void close_now(PortalObject *self)
{
    pc_portal *portal = self->portal;
    self->portal = NULL;
    if (portal == NULL)
        return;
    Py_BEGIN_ALLOW_THREADS portal->ops->close(portal);
    Py_END_ALLOW_THREADS
}

static void portal_dealloc(PyObject *object)
{
    PortalObject *self = (PortalObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    close_now(self);
    if (self->held)
        PyBuffer_Release(&self->memory);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *take_over(PortalObject *self, pc_portal *portal)
{
    if (portal == NULL)
        return py_fail_errno();
    if (portal->ops->register_memory != NULL) {
        int given =
            portal->ops->register_memory(portal, self->memory.buf, (size_t)self->memory.len, true);
        if (given < 0) {
            portal->ops->close(portal);
            errno = -given;
            return py_fail_errno();
        }
    }
    self->portal = portal;
    Py_RETURN_NONE;
}

static PortalObject *not_open(PyObject *object)
{
    PortalObject *self = (PortalObject *)object;
    if (self->portal == NULL && self->held)
        return self;
    return py_fail(PC_ERROR_INVALID, "portal is open already");
}

static PyObject *portal_open_queue(PyObject *object, PyObject *args)
{
    int fd;
    const char *submit;
    PortalObject *self = not_open(object);
    if (self == NULL || !PyArg_ParseTuple(args, "is", &fd, &submit))
        return NULL;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return py_fail_errno();
    pc_portal *portal = strcmp(submit, "write") == 0
                            ? pc_portal_open_write(own)
                            : pc_portal_open_mapped(own, strcmp(submit, "movdir64b") == 0);
    if (portal == NULL) {
        int saved = errno;
        close(own);
        errno = saved;
    }
    return take_over(self, portal);
}

static PyObject *portal_open_model(PyObject *object, PyObject *args)
{
    dsa_model_options options;
    PortalObject *self = not_open(object);
    if (self == NULL)
        return NULL;
    dsa_model *model = py_model_open(args, NULL, &options);
    if (model == NULL)
        return NULL;
    pc_portal *portal = pc_portal_open_model(model, options.mode);
    if (portal == NULL)
        dsa_model_close(model);
    return take_over(self, portal);
}

static PyObject *portal_submit(PyObject *object, PyObject *args)
{
    PortalObject *self = (PortalObject *)object;
    unsigned long long offset, count;
    if (!PyArg_ParseTuple(args, "KK", &offset, &count))
        return NULL;
    unsigned long long room = (unsigned long long)self->memory.len / PC_DESCRIPTOR_BYTES;
    if (self->portal == NULL || offset % PC_DESCRIPTOR_BYTES != 0 ||
        offset / PC_DESCRIPTOR_BYTES > room || count > room - offset / PC_DESCRIPTOR_BYTES)
        return py_fail(PC_ERROR_INVALID, "portal is not open, or descriptors outside its memory");
    const char *first = (const char *)self->memory.buf + offset;
    long taken;
    Py_BEGIN_ALLOW_THREADS taken = self->portal->ops->submit(self->portal, first, (size_t)count);
    Py_END_ALLOW_THREADS if (taken >= 0) return PyLong_FromLong(taken);
    errno = (int)-taken;
    return py_fail_errno();
}

static PyObject *portal_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    close_now((PortalObject *)object);
    Py_RETURN_NONE;
}

static PyObject *portal_address(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong((uintptr_t)((PortalObject *)object)->memory.buf);
}

static PyMethodDef portal_methods[] = {
    {"open_queue", portal_open_queue, METH_VARARGS, NULL},
    {"open_model", portal_open_model, METH_VARARGS, NULL},
    {"submit", portal_submit, METH_VARARGS, NULL},
    {"close", portal_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef portal_members[] = {
    {"address", portal_address, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot portal_slots[] = {
    {Py_tp_init, (void *)portal_init},
    {Py_tp_dealloc, (void *)portal_dealloc},
    {Py_tp_methods, portal_methods},
    {Py_tp_getset, portal_members},
    {0, NULL},
};

PyType_Spec py_portal_spec = {
    .name = "pagecheck.native._native.Portal",
    .basicsize = sizeof(PortalObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = portal_slots,
};
