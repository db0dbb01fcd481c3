/* The kernel's <linux/idxd.h>, held against the DSA specification (341204-006US, 8.1 and 8.2).
 *
 * Danger: the device reads and writes these bytes whatever the compiler thinks of them. The
 * bitfields (pasid, priv, flags, opcode, invalid_flags) have no offset that can be asserted here;
 * tests/native/test_portals.c looks at their bytes. */
#ifndef PC_IDXD_H
#define PC_IDXD_H

#include <linux/idxd.h>
#include <stddef.h>

#include "pc_portal.h"

/* The status code is bits 5:0. The kernel's DSA_COMP_STATUS_MASK (0x7f) keeps bit 6, which the
 * specification leaves unused: a device may set it. Bit 7 is DSA_COMP_STATUS_WRITE. */
#define PC_IDXD_STATUS_MASK 0x3fu

#define PC_IDXD_DESC_AT(field, at, bytes)                                                          \
    _Static_assert(offsetof(struct dsa_hw_desc, field) == (at) &&                                  \
                       sizeof((struct dsa_hw_desc){0}.field) == (bytes),                           \
                   "dsa_hw_desc." #field)
#define PC_IDXD_RECORD_AT(field, at, bytes)                                                        \
    _Static_assert(offsetof(struct dsa_completion_record, field) == (at) &&                        \
                       sizeof((struct dsa_completion_record){0}.field) == (bytes),                 \
                   "dsa_completion_record." #field)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the device is little-endian");

_Static_assert(sizeof(struct dsa_hw_desc) == PC_DESCRIPTOR_BYTES, "dsa_hw_desc");
PC_IDXD_DESC_AT(completion_addr, 8, 8);
PC_IDXD_DESC_AT(src_addr, 16, 8);
PC_IDXD_DESC_AT(desc_list_addr, 16, 8);
PC_IDXD_DESC_AT(dst_addr, 24, 8);
PC_IDXD_DESC_AT(src2_addr, 24, 8);
PC_IDXD_DESC_AT(comp_pattern, 24, 8);
PC_IDXD_DESC_AT(xfer_size, 32, 4);
PC_IDXD_DESC_AT(desc_count, 32, 4);
PC_IDXD_DESC_AT(int_handle, 36, 2);
PC_IDXD_DESC_AT(rsvd1, 38, 2);
PC_IDXD_DESC_AT(expected_res, 40, 1);
PC_IDXD_DESC_AT(op_specific, 40, 24);

_Static_assert(sizeof(struct dsa_completion_record) == PC_RECORD_BYTES, "dsa_completion_record");
PC_IDXD_RECORD_AT(status, 0, 1);
PC_IDXD_RECORD_AT(result, 1, 1);
/* Byte 2 is fault information (version 2), `fault_info` in the headers of Linux 6.5 and later. */
PC_IDXD_RECORD_AT(bytes_completed, 4, 4);
PC_IDXD_RECORD_AT(fault_addr, 8, 8);
PC_IDXD_RECORD_AT(op_specific, 16, 16); /* bytes 16 to 18: invalid_flags */

_Static_assert(IDXD_OP_FLAG_CRAV == 0x4, "completion record address valid");
_Static_assert(IDXD_OP_FLAG_RCR == 0x8, "request completion record");
_Static_assert(DSA_OPCODE_BATCH == 0x1, "batch");
_Static_assert(DSA_OPCODE_COMPVAL == 0x6, "compare pattern");
_Static_assert(DSA_COMP_NONE == 0x0, "not written yet");
_Static_assert(DSA_COMP_SUCCESS == 0x1, "success");
_Static_assert(DSA_COMP_PAGE_FAULT_NOBOF == 0x3, "page fault, partial completion");
_Static_assert(DSA_COMP_BATCH_FAIL == 0x5, "a member of the batch is not Success");
_Static_assert(DSA_COMP_BATCH_PAGE_FAULT == 0x6, "page fault on the descriptor list");
_Static_assert(DSA_COMP_STATUS_WRITE == 0x80, "the faulting access was a write");

#endif
