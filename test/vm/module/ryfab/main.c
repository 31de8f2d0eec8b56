// SPDX-License-Identifier: GPL-2.0-only
// Copyright The Railyard Authors

#include <linux/module.h>

#include "ryfab.h"

struct workqueue_struct *ryfab_wq;

static int __init ryfab_init(void)
{
	int err;

	ryfab_wq = alloc_workqueue("ryfab", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!ryfab_wq)
		return -ENOMEM;
	err = ryfab_roce_init();
	if (err)
		goto no_roce;
	err = ryfab_sf_init();
	if (err)
		goto no_sf;
	err = ryfab_hca_init();
	if (err)
		goto no_hca;
	return 0;

no_hca:
	ryfab_sf_exit();
no_sf:
	ryfab_roce_exit();
no_roce:
	destroy_workqueue(ryfab_wq);
	return err;
}

static void __exit ryfab_exit(void)
{
	ryfab_hca_exit();
	ryfab_sf_exit();
	ryfab_roce_exit();
	destroy_workqueue(ryfab_wq);
}

module_init(ryfab_init);
module_exit(ryfab_exit);

MODULE_DESCRIPTION("RDMA devices of hardware, for tests");
MODULE_LICENSE("GPL");
