/* SPDX-License-Identifier: GPL-2.0-only */
/* Copyright The Railyard Authors */

/*
 * ryfab makes RDMA devices that belong to hardware, as no software device of the kernel does, for tests in virtual machines. They can be
 * found, opened, moved and removed; what is sent on them goes nowhere.
 *
 * hca.c   a PCI driver without IDs: a function that has it as its driver_override is an InfiniBand adapter, a physical one can have
 *         virtual functions, with GUIDs, and subfunctions
 * sf.c    subfunctions: auxiliary devices ryfab.sf.N, each an Ethernet link with an RDMA device
 * roce.c  RDMA devices of Ethernet links; "rdma link add NAME type ryfab netdev LINK" puts one on a link of hardware
 * verbs.c what all of them do
 */

#ifndef RYFAB_H
#define RYFAB_H

#include <linux/auxiliary_bus.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <rdma/ib_verbs.h>

#define RYFAB_PKEYS	2
#define RYFAB_GIDS	32
#define RYFAB_MAX_VFS	64

/* What a physical function knows of a virtual one. */
struct ryfab_vf {
	u64 node_guid;
	u64 port_guid;
	int link_state;
};

/* A PCI function that is an InfiniBand adapter. */
struct ryfab_hca {
	struct pci_dev *pdev;
	struct ryfab_dev *dev;
	spinlock_t vf_lock;	/* of vfs; it is taken inside of the rtnl */
	struct ryfab_vf vfs[RYFAB_MAX_VFS];
	struct mutex sf_lock;	/* of those below; the rtnl is taken inside of it */
	struct list_head sfs;
	unsigned int sf_count;
};

/* An RDMA device. */
struct ryfab_dev {
	struct ib_device ib;
	struct ryfab_hca *hca;	/* of an InfiniBand device; else it is RoCE's */
	u64 port_guid;
	u16 lid;
	spinlock_t lock;	/* of all queues */
	struct list_head roce;	/* in the list of RoCE devices */
};

static inline struct ryfab_dev *to_ryfab(struct ib_device *ib)
{
	return container_of(ib, struct ryfab_dev, ib);
}

extern struct workqueue_struct *ryfab_wq;

void ryfab_init_device(struct ryfab_dev *dev, struct device *parent);

int ryfab_hca_init(void);
void ryfab_hca_exit(void);
int ryfab_sf_set_count(struct ryfab_hca *hca, unsigned int count);

int ryfab_roce_init(void);
void ryfab_roce_exit(void);
int ryfab_roce_add(const char *name, struct net_device *ndev);
void ryfab_roce_remove(struct device *parent);

int ryfab_sf_init(void);
void ryfab_sf_exit(void);

#endif
