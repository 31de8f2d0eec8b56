// SPDX-License-Identifier: GPL-2.0-only
// Copyright The Railyard Authors

#include <linux/module.h>
#include <linux/rtnetlink.h>
#include <net/addrconf.h>
#include <rdma/ib_addr.h>
#include <rdma/ib_cache.h>
#include <rdma/ib_mad.h>
#include <rdma/rdma_netlink.h>

#include "ryfab.h"

static LIST_HEAD(devices);
static DEFINE_MUTEX(devices_lock); /* taken inside of the rtnl, which is never taken inside of it */

static int roce_immutable(struct ib_device *ib, u32 port, struct ib_port_immutable *imm)
{
	imm->core_cap_flags = RDMA_CORE_PORT_IBA_ROCE | RDMA_CORE_PORT_IBA_ROCE_UDP_ENCAP;
	imm->pkey_tbl_len = 1;
	imm->gid_tbl_len = RYFAB_GIDS;
	imm->max_mad_size = IB_MGMT_MAD_SIZE;
	return 0;
}

static int roce_query_port(struct ib_device *ib, u32 port, struct ib_port_attr *attr)
{
	struct net_device *ndev = ib_device_get_netdev(ib, port);
	bool up = ndev && netif_running(ndev) && netif_carrier_ok(ndev);

	attr->state = up ? IB_PORT_ACTIVE : IB_PORT_DOWN;
	attr->phys_state = up ? IB_PORT_PHYS_STATE_LINK_UP : IB_PORT_PHYS_STATE_DISABLED;
	attr->max_mtu = IB_MTU_4096;
	attr->active_mtu = ndev ? iboe_get_mtu(ndev->mtu) : IB_MTU_1024;
	attr->gid_tbl_len = RYFAB_GIDS;
	attr->pkey_tbl_len = 1;
	attr->max_msg_sz = SZ_1G;
	attr->active_width = IB_WIDTH_4X;
	attr->active_speed = IB_SPEED_EDR;
	dev_put(ndev);
	return 0;
}

static int roce_query_pkey(struct ib_device *ib, u32 port, u16 index, u16 *pkey)
{
	if (index)
		return -EINVAL;
	*pkey = IB_DEFAULT_PKEY_FULL;
	return 0;
}

static enum rdma_link_layer roce_link_layer(struct ib_device *ib, u32 port)
{
	return IB_LINK_LAYER_ETHERNET;
}

/* The core keeps the table; hardware would be told of it here. */
static int roce_add_gid(const struct ib_gid_attr *attr, void **context)
{
	return 0;
}

static int roce_del_gid(const struct ib_gid_attr *attr, void **context)
{
	return 0;
}

static void roce_dealloc(struct ib_device *ib)
{
	struct ryfab_dev *dev = to_ryfab(ib);

	mutex_lock(&devices_lock);
	list_del_init(&dev->roce);
	mutex_unlock(&devices_lock);
}

static const struct ib_device_ops roce_ops = {
	.add_gid		= roce_add_gid,
	.dealloc_driver		= roce_dealloc,
	.del_gid		= roce_del_gid,
	.get_link_layer		= roce_link_layer,
	.get_port_immutable	= roce_immutable,
	.query_pkey		= roce_query_pkey,
	.query_port		= roce_query_port,
};

/* Adds the RDMA device of a link that is hardware's. */
int ryfab_roce_add(const char *name, struct net_device *ndev)
{
	struct ryfab_dev *dev;
	int err;

	if (!ndev->dev.parent || ndev->type != ARPHRD_ETHER)
		return -EINVAL;
	dev = ib_alloc_device(ryfab_dev, ib);
	if (!dev)
		return -ENOMEM;
	INIT_LIST_HEAD(&dev->roce);
	ryfab_init_device(dev, ndev->dev.parent);
	ib_set_device_ops(&dev->ib, &roce_ops);
	addrconf_addr_eui48((u8 *)&dev->ib.node_guid, ndev->dev_addr);
	dev->port_guid = be64_to_cpu(dev->ib.node_guid);
	err = ib_device_set_netdev(&dev->ib, ndev, 1);
	if (err)
		goto fail;
	mutex_lock(&devices_lock);
	list_add(&dev->roce, &devices);
	mutex_unlock(&devices_lock);
	err = ib_register_device(&dev->ib, name, NULL);
	if (err)
		goto fail;
	return 0;

fail:
	ib_dealloc_device(&dev->ib);
	return err;
}

static struct ryfab_dev *find(struct device *parent)
{
	struct ryfab_dev *dev;

	mutex_lock(&devices_lock);
	list_for_each_entry(dev, &devices, roce) {
		if ((!parent || dev->ib.dev.parent == parent) && ib_device_try_get(&dev->ib)) {
			mutex_unlock(&devices_lock);
			return dev;
		}
	}
	mutex_unlock(&devices_lock);
	return NULL;
}

/* Removes the RDMA devices of a device, or all. */
void ryfab_roce_remove(struct device *parent)
{
	struct ryfab_dev *dev;

	while ((dev = find(parent)))
		ib_unregister_device_and_put(&dev->ib);
}

/* A link that leaves its namespace is unregistered there and registered in the next, and so is it with its RDMA device. */
static int on_netdev(struct notifier_block *nb, unsigned long event, void *arg)
{
	struct net_device *ndev = netdev_notifier_info_to_dev(arg);
	struct ryfab_dev *dev;

	if (!ndev->dev.parent || ndev->type != ARPHRD_ETHER || (event != NETDEV_REGISTER && event != NETDEV_UNREGISTER))
		return NOTIFY_DONE;
	mutex_lock(&devices_lock);
	list_for_each_entry(dev, &devices, roce) {
		if (dev->ib.dev.parent == ndev->dev.parent)
			ib_device_set_netdev(&dev->ib, event == NETDEV_REGISTER ? ndev : NULL, 1);
	}
	mutex_unlock(&devices_lock);
	return NOTIFY_DONE;
}

static struct notifier_block netdev_nb = { .notifier_call = on_netdev };

/* A PCI function whose driver leaves it loses its RDMA devices first. */
static int on_pci(struct notifier_block *nb, unsigned long event, void *arg)
{
	if (event == BUS_NOTIFY_UNBIND_DRIVER)
		ryfab_roce_remove(arg);
	return NOTIFY_DONE;
}

static struct notifier_block pci_nb = { .notifier_call = on_pci };

static struct rdma_link_ops link_ops = {
	.type		= "ryfab",
	.newlink	= ryfab_roce_add,
};

int ryfab_roce_init(void)
{
	int err = register_netdevice_notifier(&netdev_nb);

	if (err)
		return err;
	err = bus_register_notifier(&pci_bus_type, &pci_nb);
	if (err) {
		unregister_netdevice_notifier(&netdev_nb);
		return err;
	}
	rdma_link_register(&link_ops);
	return 0;
}

void ryfab_roce_exit(void)
{
	rdma_link_unregister(&link_ops);
	bus_unregister_notifier(&pci_bus_type, &pci_nb);
	ryfab_roce_remove(NULL);
	unregister_netdevice_notifier(&netdev_nb);
}

MODULE_ALIAS_RDMA_LINK("ryfab");
