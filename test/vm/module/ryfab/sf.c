// SPDX-License-Identifier: GPL-2.0-only
// Copyright The Railyard Authors

#include <linux/etherdevice.h>
#include <linux/idr.h>
#include <linux/module.h>

#include "ryfab.h"

struct ryfab_sf {
	struct auxiliary_device adev;
	struct list_head list;
};

static DEFINE_IDA(ids);

static void sf_release(struct device *d)
{
	struct ryfab_sf *sf = container_of(to_auxiliary_dev(d), struct ryfab_sf, adev);

	ida_free(&ids, sf->adev.id);
	kfree(sf);
}

static int sf_create(struct ryfab_hca *hca)
{
	struct ryfab_sf *sf = kzalloc(sizeof(*sf), GFP_KERNEL);
	int id, err;

	if (!sf)
		return -ENOMEM;
	id = ida_alloc_min(&ids, 1, GFP_KERNEL);
	if (id < 0) {
		kfree(sf);
		return id;
	}
	sf->adev.id = id;
	sf->adev.name = "sf";
	sf->adev.dev.parent = &hca->pdev->dev;
	sf->adev.dev.release = sf_release;
	err = auxiliary_device_init(&sf->adev);
	if (err) {
		ida_free(&ids, id);
		kfree(sf);
		return err;
	}
	err = auxiliary_device_add(&sf->adev);
	if (err) {
		auxiliary_device_uninit(&sf->adev); /* and frees it */
		return err;
	}
	list_add_tail(&sf->list, &hca->sfs);
	hca->sf_count++;
	return 0;
}

static void sf_destroy_last(struct ryfab_hca *hca)
{
	struct ryfab_sf *sf = list_last_entry(&hca->sfs, struct ryfab_sf, list);

	list_del(&sf->list);
	hca->sf_count--;
	auxiliary_device_delete(&sf->adev);
	auxiliary_device_uninit(&sf->adev);
}

/* Makes or removes subfunctions until there are so many. */
int ryfab_sf_set_count(struct ryfab_hca *hca, unsigned int count)
{
	int err = 0;

	if (count > 16)
		return -EINVAL;
	mutex_lock(&hca->sf_lock);
	while (!err && hca->sf_count < count)
		err = sf_create(hca);
	while (!err && hca->sf_count > count)
		sf_destroy_last(hca);
	mutex_unlock(&hca->sf_lock);
	return err;
}

static netdev_tx_t sf_xmit(struct sk_buff *skb, struct net_device *ndev)
{
	dev_sw_netstats_tx_add(ndev, 1, skb->len);
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops sf_netdev_ops = {
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_start_xmit		= sf_xmit,
	.ndo_validate_addr	= eth_validate_addr,
};

static void sf_setup(struct net_device *ndev)
{
	ether_setup(ndev);
	ndev->netdev_ops = &sf_netdev_ops;
	ndev->pcpu_stat_type = NETDEV_PCPU_STAT_TSTATS;
	ndev->max_mtu = 9000;
	eth_hw_addr_random(ndev);
}

static int sf_probe(struct auxiliary_device *adev, const struct auxiliary_device_id *id)
{
	struct net_device *ndev = alloc_netdev(0, "rysf%d", NET_NAME_ENUM, sf_setup);
	int err;

	if (!ndev)
		return -ENOMEM;
	SET_NETDEV_DEV(ndev, &adev->dev);
	auxiliary_set_drvdata(adev, ndev);
	err = register_netdev(ndev);
	if (err)
		goto no_netdev;
	err = ryfab_roce_add("rysf%d", ndev);
	if (err)
		goto no_rdma;
	return 0;

no_rdma:
	unregister_netdev(ndev);
no_netdev:
	free_netdev(ndev);
	return err;
}

static void sf_remove(struct auxiliary_device *adev)
{
	struct net_device *ndev = auxiliary_get_drvdata(adev);

	ryfab_roce_remove(&adev->dev);
	unregister_netdev(ndev);
	free_netdev(ndev);
}

static const struct auxiliary_device_id sf_ids[] = {
	{ .name = KBUILD_MODNAME ".sf" },
	{ }
};
MODULE_DEVICE_TABLE(auxiliary, sf_ids);

static struct auxiliary_driver sf_driver = {
	.name		= "sf",
	.probe		= sf_probe,
	.remove		= sf_remove,
	.id_table	= sf_ids,
};

int ryfab_sf_init(void)
{
	return auxiliary_driver_register(&sf_driver);
}

void ryfab_sf_exit(void)
{
	auxiliary_driver_unregister(&sf_driver);
}
