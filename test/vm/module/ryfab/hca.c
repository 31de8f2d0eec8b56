// SPDX-License-Identifier: GPL-2.0-only
// Copyright The Railyard Authors

#include <linux/if_link.h>
#include <linux/module.h>
#include <rdma/ib_mad.h>

#include "ryfab.h"

#define SUBNET_PREFIX	0xfe80000000000000ULL

/* The GUID of a function that was given none: unique in the machine, and the same each time. */
static u64 own_guid(struct pci_dev *pdev)
{
	return 0x0272000000000000ULL | (u64)pci_domain_nr(pdev->bus) << 16 | pci_dev_id(pdev);
}

static int hca_immutable(struct ib_device *ib, u32 port, struct ib_port_immutable *imm)
{
	imm->core_cap_flags = RDMA_CORE_PORT_IBA_IB;
	imm->pkey_tbl_len = RYFAB_PKEYS;
	imm->gid_tbl_len = RYFAB_GIDS;
	imm->max_mad_size = IB_MGMT_MAD_SIZE;
	return 0;
}

static int hca_query_port(struct ib_device *ib, u32 port, struct ib_port_attr *attr)
{
	attr->state = IB_PORT_ACTIVE;
	attr->phys_state = IB_PORT_PHYS_STATE_LINK_UP;
	attr->max_mtu = IB_MTU_4096;
	attr->active_mtu = IB_MTU_4096;
	attr->gid_tbl_len = RYFAB_GIDS;
	attr->pkey_tbl_len = RYFAB_PKEYS;
	attr->max_msg_sz = SZ_1G;
	attr->lid = to_ryfab(ib)->lid;
	attr->sm_lid = 1; /* and nobody answers there, so that links of IPoIB have no carrier */
	attr->subnet_prefix = SUBNET_PREFIX;
	attr->max_vl_num = 1;
	attr->active_width = IB_WIDTH_4X;
	attr->active_speed = IB_SPEED_EDR;
	return 0;
}

static int hca_query_gid(struct ib_device *ib, u32 port, int index, union ib_gid *gid)
{
	memset(gid, 0, sizeof(*gid));
	if (index)
		return 0;
	gid->global.subnet_prefix = cpu_to_be64(SUBNET_PREFIX);
	gid->global.interface_id = cpu_to_be64(to_ryfab(ib)->port_guid);
	return 0;
}

/* The partition of all, and one more, in both with full membership. */
static int hca_query_pkey(struct ib_device *ib, u32 port, u16 index, u16 *pkey)
{
	static const u16 pkeys[RYFAB_PKEYS] = { 0xffff, 0x8001 };

	if (index >= RYFAB_PKEYS)
		return -EINVAL;
	*pkey = pkeys[index];
	return 0;
}

static enum rdma_link_layer hca_link_layer(struct ib_device *ib, u32 port)
{
	return IB_LINK_LAYER_INFINIBAND;
}

/* The record of a virtual function that there is, or NULL. */
static struct ryfab_vf *vf_of(struct ryfab_hca *hca, int vf)
{
	return vf >= 0 && vf < min(pci_num_vf(hca->pdev), RYFAB_MAX_VFS) ? &hca->vfs[vf] : NULL;
}

static int read_vf(struct ib_device *ib, int vf, struct ryfab_vf *out)
{
	struct ryfab_hca *hca = to_ryfab(ib)->hca;
	struct ryfab_vf *v = vf_of(hca, vf);

	if (!v)
		return -EINVAL;
	spin_lock(&hca->vf_lock);
	*out = *v;
	spin_unlock(&hca->vf_lock);
	return 0;
}

static int hca_get_vf_config(struct ib_device *ib, int vf, u32 port, struct ifla_vf_info *ivf)
{
	struct ryfab_vf is;
	int err = read_vf(ib, vf, &is);

	if (err)
		return err;
	memset(ivf, 0, sizeof(*ivf));
	ivf->linkstate = is.link_state;
	return 0;
}

static int hca_get_vf_stats(struct ib_device *ib, int vf, u32 port, struct ifla_vf_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	return 0;
}

static int hca_set_vf_link_state(struct ib_device *ib, int vf, u32 port, int state)
{
	struct ryfab_hca *hca = to_ryfab(ib)->hca;
	struct ryfab_vf *v = vf_of(hca, vf);

	if (!v)
		return -EINVAL;
	spin_lock(&hca->vf_lock);
	v->link_state = state;
	spin_unlock(&hca->vf_lock);
	return 0;
}

static int hca_get_vf_guid(struct ib_device *ib, int vf, u32 port, struct ifla_vf_guid *node, struct ifla_vf_guid *own)
{
	struct ryfab_vf is;
	int err = read_vf(ib, vf, &is);

	if (err)
		return err;
	node->guid = is.node_guid;
	own->guid = is.port_guid;
	return 0;
}

/* As with real adapters, a virtual function has its GUIDs from the moment that its driver is bound to it. */
static int hca_set_vf_guid(struct ib_device *ib, int vf, u32 port, u64 guid, int type)
{
	struct ryfab_hca *hca = to_ryfab(ib)->hca;
	struct ryfab_vf *v = vf_of(hca, vf);

	if (!v || (type != IFLA_VF_IB_NODE_GUID && type != IFLA_VF_IB_PORT_GUID))
		return -EINVAL;
	spin_lock(&hca->vf_lock);
	if (type == IFLA_VF_IB_NODE_GUID)
		v->node_guid = guid;
	else
		v->port_guid = guid;
	spin_unlock(&hca->vf_lock);
	return 0;
}

static const struct ib_device_ops hca_ops = {
	.get_link_layer		= hca_link_layer,
	.get_port_immutable	= hca_immutable,
	.query_gid		= hca_query_gid,
	.query_pkey		= hca_query_pkey,
	.query_port		= hca_query_port,
};

static const struct ib_device_ops hca_pf_ops = {
	.get_vf_config		= hca_get_vf_config,
	.get_vf_guid		= hca_get_vf_guid,
	.get_vf_stats		= hca_get_vf_stats,
	.set_vf_guid		= hca_set_vf_guid,
	.set_vf_link_state	= hca_set_vf_link_state,
};

static struct pci_driver hca_driver;

/* The GUIDs that the physical function has for a virtual one, or its own. */
static void take_guids(struct ryfab_dev *dev, struct pci_dev *pdev)
{
	u64 guid = own_guid(pdev), own = guid;
	struct pci_dev *pf = pci_physfn(pdev);
	int i = pdev->is_virtfn ? pci_iov_vf_id(pdev) : -1;

	if (i >= 0 && i < RYFAB_MAX_VFS && pf->driver == &hca_driver) {
		struct ryfab_hca *above = pci_get_drvdata(pf);

		spin_lock(&above->vf_lock);
		guid = above->vfs[i].node_guid ?: guid;
		own = above->vfs[i].port_guid ?: own;
		spin_unlock(&above->vf_lock);
	}
	dev->ib.node_guid = cpu_to_be64(guid);
	dev->port_guid = own;
}

static ssize_t sf_num_show(struct device *d, struct device_attribute *attr, char *buf)
{
	struct ryfab_hca *hca = dev_get_drvdata(d);

	return sysfs_emit(buf, "%u\n", READ_ONCE(hca->sf_count));
}

/* The number of subfunctions, as sriov_numvfs is that of virtual functions. */
static ssize_t sf_num_store(struct device *d, struct device_attribute *attr, const char *buf, size_t len)
{
	struct ryfab_hca *hca = dev_get_drvdata(d);
	unsigned int count;
	int err = kstrtouint(buf, 0, &count);

	if (!err)
		err = ryfab_sf_set_count(hca, count);
	return err ?: len;
}
static DEVICE_ATTR_RW(sf_num);

static struct attribute *hca_attrs[] = { &dev_attr_sf_num.attr, NULL };
ATTRIBUTE_GROUPS(hca);

static int hca_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	static atomic_t lids = ATOMIC_INIT(1); /* 1 is the subnet manager's */
	struct ryfab_hca *hca;
	struct ryfab_dev *dev;
	int err = -ENOMEM;

	hca = kzalloc(sizeof(*hca), GFP_KERNEL);
	if (!hca)
		return err;
	hca->pdev = pdev;
	spin_lock_init(&hca->vf_lock);
	mutex_init(&hca->sf_lock);
	INIT_LIST_HEAD(&hca->sfs);
	dev = ib_alloc_device(ryfab_dev, ib);
	if (!dev)
		goto no_device;
	hca->dev = dev;
	dev->hca = hca;
	ryfab_init_device(dev, &pdev->dev);
	ib_set_device_ops(&dev->ib, &hca_ops);
	if (!pdev->is_virtfn)
		ib_set_device_ops(&dev->ib, &hca_pf_ops);
	dev->lid = (u16)(atomic_inc_return(&lids) & 0x3fff);
	take_guids(dev, pdev);
	pci_set_drvdata(pdev, hca);
	err = ib_register_device(&dev->ib, "ryib%d", NULL);
	if (err)
		goto no_register;
	return 0;

no_register:
	ib_dealloc_device(&dev->ib);
no_device:
	kfree(hca);
	return err;
}

static void hca_remove(struct pci_dev *pdev)
{
	struct ryfab_hca *hca = pci_get_drvdata(pdev);

	if (!pdev->is_virtfn)
		pci_disable_sriov(pdev);
	ryfab_sf_set_count(hca, 0);
	ib_unregister_device(&hca->dev->ib);
	ib_dealloc_device(&hca->dev->ib);
	kfree(hca);
}

static int hca_sriov_configure(struct pci_dev *pdev, int count)
{
	struct ryfab_hca *hca = pci_get_drvdata(pdev);

	if (!count) {
		pci_disable_sriov(pdev);
		spin_lock(&hca->vf_lock);
		memset(hca->vfs, 0, sizeof(hca->vfs));
		spin_unlock(&hca->vf_lock);
		return 0;
	}
	return pci_enable_sriov(pdev, count) ?: count;
}

static struct pci_driver hca_driver = {
	.name			= "ryfab",
	.probe			= hca_probe,
	.remove			= hca_remove,
	.sriov_configure	= hca_sriov_configure,
	.dev_groups		= hca_groups,
};

int ryfab_hca_init(void)
{
	return pci_register_driver(&hca_driver);
}

void ryfab_hca_exit(void)
{
	pci_unregister_driver(&hca_driver);
}
