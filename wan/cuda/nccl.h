/*
 * Data between the cards of several ranks.
 *
 * This file is part of libwan; see the licence in wan.h.
 */

#ifndef WAN_CUDA_NCCL_H
#define WAN_CUDA_NCCL_H

#include "cuda.h"

/* Whether NCCL is there: 0, or WAN_ERR(ENOSYS), and the line names what is
 * missing. */
int wan_nccl_there(const WanLog *log);

/* For the table of the backend, see dev.h. */
int wan_nccl_join(WanDev *d);
void wan_nccl_exchange(WanDev *d, const WanParcel *out, const WanParcel *in);

/*
 * What may hang on other ranks' data, where the device has joined: an event;
 * whatever else, of which it is a look now and then. 0: d has failed, and the
 * device does not wait for the others any more.
 */
int wan_nccl_wait(WanDev *d, cudaEvent_t event, const char *op);
int wan_nccl_look(WanDev *d);

/* Before anything is freed: the device has done its part, and that of the others
 * is over. Nothing where it has not joined. */
void wan_nccl_leave(WanDev *d);

#endif /* WAN_CUDA_NCCL_H */
