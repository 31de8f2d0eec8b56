// SPDX-License-Identifier: GPL-2.0-only
// Copyright The Railyard Authors

#include <linux/module.h>
#include <linux/version.h>
#include <rdma/ib_mad.h>

#include "ryfab.h"

/*
 * A send is complete as soon as it is posted. A receive is never, until its queue pair fails or is reset, which flushes it. One lock a
 * device is enough for queues on which nothing travels.
 */

struct ryfab_cq {
	struct ib_cq ib;
	struct list_head done;	/* completions */
	bool armed;
	struct work_struct work;
};

struct ryfab_qp {
	struct ib_qp ib;
	struct ib_qp_attr attr;
	struct ib_qp_cap cap;
	bool signal_all;
	struct list_head posted; /* receives */
	unsigned int count;
};

/* A receive, or the completion of a send or a receive. */
struct ryfab_wqe {
	struct list_head list;
	struct ib_wc wc;
};

struct ryfab_pd { struct ib_pd ib; };
struct ryfab_ah { struct ib_ah ib; };
struct ryfab_ucontext { struct ib_ucontext ib; };

static struct ryfab_cq *to_cq(struct ib_cq *ib)
{
	return container_of(ib, struct ryfab_cq, ib);
}

static struct ryfab_qp *to_qp(struct ib_qp *ib)
{
	return container_of(ib, struct ryfab_qp, ib);
}

static int query_device(struct ib_device *ib, struct ib_device_attr *attr, struct ib_udata *udata)
{
	struct ryfab_dev *dev = to_ryfab(ib);

	if (udata && (udata->inlen || udata->outlen))
		return -EINVAL;
	memset(attr, 0, sizeof(*attr));
	attr->sys_image_guid = ib->node_guid;
	attr->max_mr_size = ~0ULL;
	attr->page_size_cap = PAGE_SIZE;
	attr->kernel_cap_flags = IBK_LOCAL_DMA_LKEY;
	if (!dev->hca)
		attr->kernel_cap_flags |= IBK_ALLOW_USER_UNREG;
	else if (dev->hca->pdev->is_virtfn)
		attr->kernel_cap_flags |= IBK_VIRTUAL_FUNCTION;
	attr->max_qp = 4096;
	attr->max_qp_wr = 16384;
	attr->max_send_sge = 16;
	attr->max_recv_sge = 16;
	attr->max_sge_rd = 16;
	attr->max_cq = 4096;
	attr->max_cqe = 1 << 22;
	attr->max_mr = 4096;
	attr->max_pd = 4096;
	attr->max_ah = 4096;
	attr->max_mcast_grp = 4096;
	attr->max_mcast_qp_attach = 64;
	attr->max_total_mcast_qp_attach = 4096;
	attr->max_pkeys = RYFAB_PKEYS;
	return 0;
}

static int alloc_ucontext(struct ib_ucontext *ctx, struct ib_udata *udata)
{
	return 0;
}

static void dealloc_ucontext(struct ib_ucontext *ctx)
{
}

/* Nothing is mapped, so nothing needs to be taken away; that there is this function lets the device be moved and removed while in use. */
static void disassociate_ucontext(struct ib_ucontext *ctx)
{
}

static int alloc_pd(struct ib_pd *pd, struct ib_udata *udata)
{
	return 0;
}

static int dealloc_pd(struct ib_pd *pd, struct ib_udata *udata)
{
	return 0;
}

static int create_ah(struct ib_ah *ah, struct rdma_ah_init_attr *attr, struct ib_udata *udata)
{
	return 0;
}

static int destroy_ah(struct ib_ah *ah, u32 flags)
{
	return 0;
}

static struct ib_mr *get_dma_mr(struct ib_pd *pd, int access)
{
	return kzalloc(sizeof(struct ib_mr), GFP_KERNEL) ?: ERR_PTR(-ENOMEM);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
static struct ib_mr *reg_user_mr(struct ib_pd *pd, u64 start, u64 length, u64 addr, int access, struct ib_udata *udata)
#else
static struct ib_mr *reg_user_mr(struct ib_pd *pd, u64 start, u64 length, u64 addr, int access, struct ib_dmah *dmah,
				 struct ib_udata *udata)
#endif
{
	return ERR_PTR(-EOPNOTSUPP);
}

static int dereg_mr(struct ib_mr *mr, struct ib_udata *udata)
{
	kfree(mr);
	return 0;
}

/* Tells the owner of a completion queue: outside of all locks, and as an interrupt would. */
static void tell(struct work_struct *work)
{
	struct ryfab_cq *cq = container_of(work, struct ryfab_cq, work);

	local_bh_disable();
	cq->ib.comp_handler(&cq->ib, cq->ib.cq_context);
	local_bh_enable();
}

static int create_cq(struct ib_cq *ib, const struct ib_cq_init_attr *attr, struct uverbs_attr_bundle *attrs)
{
	struct ryfab_cq *cq = to_cq(ib);

	if (attr->flags)
		return -EOPNOTSUPP;
	ib->cqe = attr->cqe;
	INIT_LIST_HEAD(&cq->done);
	INIT_WORK(&cq->work, tell);
	return 0;
}

static void free_all(struct list_head *list)
{
	struct ryfab_wqe *e, *next;

	list_for_each_entry_safe(e, next, list, list)
		kfree(e);
}

static int destroy_cq(struct ib_cq *ib, struct ib_udata *udata)
{
	struct ryfab_cq *cq = to_cq(ib);

	cancel_work_sync(&cq->work);
	free_all(&cq->done);
	return 0;
}

static int poll_cq(struct ib_cq *ib, int want, struct ib_wc *wc)
{
	struct ryfab_dev *dev = to_ryfab(ib->device);
	struct ryfab_cq *cq = to_cq(ib);
	struct ryfab_wqe *e, *next;
	LIST_HEAD(taken);
	unsigned long flags;
	int n = 0;

	spin_lock_irqsave(&dev->lock, flags);
	list_for_each_entry_safe(e, next, &cq->done, list) {
		if (n == want)
			break;
		wc[n++] = e->wc;
		list_move_tail(&e->list, &taken);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	free_all(&taken);
	return n;
}

static int req_notify_cq(struct ib_cq *ib, enum ib_cq_notify_flags what)
{
	struct ryfab_dev *dev = to_ryfab(ib->device);
	struct ryfab_cq *cq = to_cq(ib);
	unsigned long flags;
	int missed;

	spin_lock_irqsave(&dev->lock, flags);
	cq->armed = true;
	missed = (what & IB_CQ_REPORT_MISSED_EVENTS) && !list_empty(&cq->done);
	spin_unlock_irqrestore(&dev->lock, flags);
	return missed;
}

/* The lock is held. */
static void complete_wqe(struct ryfab_cq *cq, struct ryfab_wqe *e, enum ib_wc_status status)
{
	e->wc.status = status;
	list_add_tail(&e->list, &cq->done);
	if (cq->armed) {
		cq->armed = false;
		queue_work(ryfab_wq, &cq->work);
	}
}

/* The lock is held. */
static void flush(struct ryfab_qp *qp)
{
	struct ryfab_wqe *e, *next;

	list_for_each_entry_safe(e, next, &qp->posted, list) {
		list_del(&e->list);
		complete_wqe(to_cq(qp->ib.recv_cq), e, IB_WC_WR_FLUSH_ERR);
	}
	qp->count = 0;
}

/* Collects what completion queues and receives have of a queue pair, so that nobody sees them after it. The lock is held. */
static void collect(struct ryfab_qp *qp, struct list_head *into)
{
	struct ib_cq *cqs[] = { qp->ib.send_cq, qp->ib.recv_cq };
	struct ryfab_wqe *e, *next;
	int i;

	for (i = 0; i < ARRAY_SIZE(cqs); i++) {
		if (!cqs[i])
			continue;
		list_for_each_entry_safe(e, next, &to_cq(cqs[i])->done, list) {
			if (e->wc.qp == &qp->ib)
				list_move(&e->list, into);
		}
	}
	list_splice_init(&qp->posted, into);
	qp->count = 0;
}

static int create_qp(struct ib_qp *ib, struct ib_qp_init_attr *init, struct ib_udata *udata)
{
	static atomic_t numbers = ATOMIC_INIT(0x100);
	struct ryfab_qp *qp = to_qp(ib);

	if (init->create_flags || init->srq || init->cap.max_inline_data)
		return -EOPNOTSUPP;
	switch (init->qp_type) {
	case IB_QPT_SMI:
	case IB_QPT_GSI:
		ib->qp_num = init->qp_type == IB_QPT_GSI;
		break;
	case IB_QPT_RC:
	case IB_QPT_UC:
	case IB_QPT_UD:
		ib->qp_num = atomic_inc_return(&numbers) & 0xffffff; /* a new one each time, as hardware does it */
		break;
	default:
		return -EOPNOTSUPP;
	}
	INIT_LIST_HEAD(&qp->posted);
	qp->cap = init->cap;
	qp->signal_all = init->sq_sig_type == IB_SIGNAL_ALL_WR;
	qp->attr.qp_state = IB_QPS_RESET;
	return 0;
}

static int modify_qp(struct ib_qp *ib, struct ib_qp_attr *attr, int mask, struct ib_udata *udata)
{
	struct ryfab_dev *dev = to_ryfab(ib->device);
	struct ryfab_qp *qp = to_qp(ib);
	enum ib_qp_state is, want;
	LIST_HEAD(dropped);
	unsigned long flags;
	int err = 0;

	if (mask & ~IB_QP_ATTR_STANDARD_BITS)
		return -EOPNOTSUPP;
	spin_lock_irqsave(&dev->lock, flags);
	is = mask & IB_QP_CUR_STATE ? attr->cur_qp_state : qp->attr.qp_state;
	want = mask & IB_QP_STATE ? attr->qp_state : is;
	if (!ib_modify_qp_is_ok(is, want, ib->qp_type, mask)) {
		err = -EINVAL;
		goto unlock;
	}
	if (mask & IB_QP_QKEY)
		qp->attr.qkey = attr->qkey;
	if (mask & IB_QP_PKEY_INDEX)
		qp->attr.pkey_index = attr->pkey_index;
	if (mask & IB_QP_PORT)
		qp->attr.port_num = attr->port_num;
	qp->attr.qp_state = want;
	if (want == IB_QPS_ERR)
		flush(qp);
	else if (want == IB_QPS_RESET)
		collect(qp, &dropped);
unlock:
	spin_unlock_irqrestore(&dev->lock, flags);
	free_all(&dropped);
	return err;
}

static int query_qp(struct ib_qp *ib, struct ib_qp_attr *attr, int mask, struct ib_qp_init_attr *init)
{
	struct ryfab_qp *qp = to_qp(ib);

	*attr = qp->attr;
	attr->cur_qp_state = qp->attr.qp_state;
	attr->cap = qp->cap;
	init->cap = qp->cap;
	init->qp_type = ib->qp_type;
	init->sq_sig_type = qp->signal_all ? IB_SIGNAL_ALL_WR : IB_SIGNAL_REQ_WR;
	return 0;
}

static int destroy_qp(struct ib_qp *ib, struct ib_udata *udata)
{
	struct ryfab_dev *dev = to_ryfab(ib->device);
	unsigned long flags;
	LIST_HEAD(left);

	spin_lock_irqsave(&dev->lock, flags);
	collect(to_qp(ib), &left);
	spin_unlock_irqrestore(&dev->lock, flags);
	free_all(&left);
	return 0;
}

static struct ryfab_wqe *new_wqe(struct ib_qp *ib, struct ib_cqe *cqe, enum ib_wc_opcode op)
{
	struct ryfab_wqe *e = kzalloc(sizeof(*e), GFP_ATOMIC);

	if (e) {
		e->wc.qp = ib;
		e->wc.wr_cqe = cqe; /* or the number that is in its place */
		e->wc.opcode = op;
		e->wc.port_num = 1;
	}
	return e;
}

static int post_send(struct ib_qp *ib, const struct ib_send_wr *wr, const struct ib_send_wr **bad)
{
	struct ryfab_dev *dev = to_ryfab(ib->device);
	struct ryfab_qp *qp = to_qp(ib);
	unsigned long flags;
	int err = 0;

	spin_lock_irqsave(&dev->lock, flags);
	for (; wr; wr = wr->next) {
		bool failed = qp->attr.qp_state == IB_QPS_ERR;
		struct ryfab_wqe *e;

		if (!failed && qp->attr.qp_state != IB_QPS_RTS) {
			err = -EINVAL;
			break;
		}
		if (!failed && !qp->signal_all && !(wr->send_flags & IB_SEND_SIGNALED))
			continue;
		e = new_wqe(ib, wr->wr_cqe, IB_WC_SEND);
		if (!e) {
			err = -ENOMEM;
			break;
		}
		complete_wqe(to_cq(ib->send_cq), e, failed ? IB_WC_WR_FLUSH_ERR : IB_WC_SUCCESS);
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (err)
		*bad = wr;
	return err;
}

static int post_recv(struct ib_qp *ib, const struct ib_recv_wr *wr, const struct ib_recv_wr **bad)
{
	struct ryfab_dev *dev = to_ryfab(ib->device);
	struct ryfab_qp *qp = to_qp(ib);
	unsigned long flags;
	int err = 0;

	spin_lock_irqsave(&dev->lock, flags);
	for (; wr; wr = wr->next) {
		struct ryfab_wqe *e;

		if (qp->attr.qp_state == IB_QPS_RESET || qp->count >= qp->cap.max_recv_wr) {
			err = qp->attr.qp_state == IB_QPS_RESET ? -EINVAL : -ENOMEM;
			break;
		}
		e = new_wqe(ib, wr->wr_cqe, IB_WC_RECV);
		if (!e) {
			err = -ENOMEM;
			break;
		}
		if (qp->attr.qp_state == IB_QPS_ERR) {
			complete_wqe(to_cq(ib->recv_cq), e, IB_WC_WR_FLUSH_ERR);
			continue;
		}
		list_add_tail(&e->list, &qp->posted);
		qp->count++;
	}
	spin_unlock_irqrestore(&dev->lock, flags);
	if (err)
		*bad = wr;
	return err;
}

static int attach_mcast(struct ib_qp *ib, union ib_gid *gid, u16 lid)
{
	return 0;
}

static const struct ib_device_ops verbs_ops = {
	.owner			= THIS_MODULE,
	.driver_id		= RDMA_DRIVER_UNKNOWN,
	.uverbs_abi_ver		= 1,

	.alloc_pd		= alloc_pd,
	.alloc_ucontext		= alloc_ucontext,
	.attach_mcast		= attach_mcast,
	.create_ah		= create_ah,
	.create_cq		= create_cq,
	.create_qp		= create_qp,
	.dealloc_pd		= dealloc_pd,
	.dealloc_ucontext	= dealloc_ucontext,
	.dereg_mr		= dereg_mr,
	.destroy_ah		= destroy_ah,
	.destroy_cq		= destroy_cq,
	.destroy_qp		= destroy_qp,
	.detach_mcast		= attach_mcast,
	.disassociate_ucontext	= disassociate_ucontext,
	.get_dma_mr		= get_dma_mr,
	.modify_qp		= modify_qp,
	.poll_cq		= poll_cq,
	.post_recv		= post_recv,
	.post_send		= post_send,
	.query_device		= query_device,
	.query_qp		= query_qp,
	.reg_user_mr		= reg_user_mr,
	.req_notify_cq		= req_notify_cq,

	INIT_RDMA_OBJ_SIZE(ib_ah, ryfab_ah, ib),
	INIT_RDMA_OBJ_SIZE(ib_cq, ryfab_cq, ib),
	INIT_RDMA_OBJ_SIZE(ib_pd, ryfab_pd, ib),
	INIT_RDMA_OBJ_SIZE(ib_qp, ryfab_qp, ib),
	INIT_RDMA_OBJ_SIZE(ib_ucontext, ryfab_ucontext, ib),
};

/* What all RDMA devices have. Those of InfiniBand have their hca by now. */
void ryfab_init_device(struct ryfab_dev *dev, struct device *parent)
{
	spin_lock_init(&dev->lock);
	strscpy(dev->ib.node_desc, "ryfab", sizeof(dev->ib.node_desc));
	dev->ib.node_type = RDMA_NODE_IB_CA;
	dev->ib.phys_port_cnt = 1;
	dev->ib.num_comp_vectors = 1;
	dev->ib.dev.parent = parent;
	ib_set_device_ops(&dev->ib, &verbs_ops);
}
