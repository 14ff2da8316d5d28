package tree

import (
	"bytes"
	"fmt"
	"sort"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/pagecache"
)

// An Op is one write of a batch.
type Op struct {
	Key    []byte
	Value  []byte
	Delete bool
}

// Apply does the operations, which are sorted by key and unique, whole or not at
// all: for readers, for read snapshots and after a crash. The linearization point
// is the Update's. Errors: as of Set, and ErrUnsorted.
//
// The leaves are loaded first. Then their writer bits are taken in key order,
// and under those nothing waits but for the next bit (T6).
func (t *Tree) Apply(ops []Op) error {
	if err := t.checkOps(ops); err != nil || len(ops) == 0 {
		return err
	}
	b := &batch{t: t, ops: ops, large: make(map[int][][]byte)}
	for i, op := range ops {
		if !op.Delete && len(op.Value) > t.inlineMax {
			b.large[i] = t.chunkPages(op.Value)
		}
	}
	r, err := b.run()
	if err != nil {
		return err
	}
	paths.Hit(paths.BatchCommit)
	for _, pid := range b.touched {
		t.tendIfDue(pid)
	}
	return t.wait(r.LSN)
}

func (t *Tree) checkOps(ops []Op) error {
	if len(ops) == 0 {
		return t.writable(nil, nil)
	}
	for i, op := range ops {
		switch {
		case len(op.Key) > MaxKeyBytes || len(op.Value) > MaxValueBytes:
			return fmt.Errorf("%w: operation %d of a batch", ErrTooLarge, i)
		case i > 0 && bytes.Compare(ops[i-1].Key, op.Key) >= 0:
			return ErrUnsorted
		}
	}
	return t.writable(nil, nil)
}

// A batch is an Apply under way.
type batch struct {
	t     *Tree
	ops   []Op
	large map[int][][]byte // chunk pages of the large values, by op

	leaves  []batchLeaf // as scouted, in key order
	lists   map[int][]byte
	touched []PID
	changes []change
}

// A batchLeaf is a leaf as it was when it was last seen in memory. While its page
// version is the same, so are its fences, even if it has been evicted since.
type batchLeaf struct {
	pid     PID
	version uint64
	hi      []byte
	last    bool
	from    int // the first op that goes there
}

// batchTriesMax bounds how often a batch starts again. Each time a leaf was both
// changed and evicted between scouting and acquiring.
const batchTriesMax = 1000

func (b *batch) run() (pagecache.Result, error) {
	for try := 0; ; try++ {
		if err := b.scout(); err != nil {
			return pagecache.Result{}, err
		}
		r, done, err := b.try()
		if done || err != nil {
			return r, err
		}
		b.t.metrics.batchRestarts.Add(1)
		if try == batchTriesMax {
			return r, fmt.Errorf("tree: batch of %d operations does not fit the cache", len(b.ops))
		}
	}
}

// scout loads the leaves and notes their fences.
func (b *batch) scout() error {
	b.leaves = b.leaves[:0]
	for i := 0; i < len(b.ops); {
		s := seek{key: b.ops[i].Key}
		g, p, err := b.t.locate(0, &s, 0)
		if err != nil {
			return err
		}
		leaf := batchLeaf{pid: p.view.PID(), version: p.view.Version(), hi: bytes.Clone(p.node.hi()), last: p.node.isLast(), from: i}
		g.Unpin()
		b.t.finish(p.moved)
		b.leaves = append(b.leaves, leaf)
		i = b.end(i, leaf.hi, leaf.last)
	}
	return nil
}

// end returns the first op from i on that lies at or above the high fence.
func (b *batch) end(i int, hi []byte, last bool) int {
	if last {
		return len(b.ops)
	}
	rest := b.ops[i:]
	return i + sort.Search(len(rest), func(k int) bool { return bytes.Compare(rest[k].Key, hi) >= 0 })
}

// try acquires the leaves, adds the changes and commits. done is false if a leaf
// has to be loaded again.
func (b *batch) try() (r pagecache.Result, done bool, err error) {
	u := b.t.cache.Begin()
	ok := false
	defer func() {
		if !ok {
			u.Discard()
		}
	}()
	if err := b.allocate(u); err != nil {
		return r, false, err
	}
	b.touched = b.touched[:0]
	for i, at := 0, 0; i < len(b.ops); {
		for at+1 < len(b.leaves) && b.leaves[at+1].from <= i {
			at++
		}
		v, end, err := b.acquire(u, &b.leaves[at], i)
		if err != nil || end == i {
			return r, false, err
		}
		yield(yieldBatchOwned)
		b.append(u, v, i, end)
		b.touched = append(b.touched, v.PID())
		i = end
	}
	ok = true
	r, err = u.Commit()
	return r, err == nil, err
}

// allocate adds the chunk pages of the large values to u.
func (b *batch) allocate(u *pagecache.Update) error {
	b.lists = make(map[int][]byte, len(b.large))
	for i, pages := range b.large {
		list, err := allocateChunks(u, len(b.ops[i].Value), pages)
		if err != nil {
			return err
		}
		b.lists[i] = list
	}
	return nil
}

// acquire takes the leaf of op i, to which the scouted leaf or nodes right of it
// lead, and returns the first op beyond it; i itself if a leaf on the way is not
// in memory and has changed since it was scouted.
func (b *batch) acquire(u *pagecache.Update, leaf *batchLeaf, i int) (pagecache.View, int, error) {
	p, err := b.t.own(u, leaf.pid, b.ops[i].Key)
	switch {
	case err != nil:
		return p.view, i, err
	case p.absent == 0:
		return p.view, b.end(i, p.node.hi(), p.node.isLast()), nil
	case p.absent == leaf.pid && p.view.Version() == leaf.version:
		return p.view, b.end(i, leaf.hi, leaf.last), nil
	}
	return p.view, i, nil
}

// batchDeltaBytesMax bounds one delta of a batch that has more than one change;
// the log's largest fragment does so too.
const batchDeltaBytesMax = 64 << 10

// append adds ops [from, to) to the leaf, in as few deltas as their size allows.
func (b *batch) append(u *pagecache.Update, v pagecache.View, from, to int) {
	limit := min(batchDeltaBytesMax, b.t.cache.MaxFragment())
	for from < to {
		size := runHeaderBytes
		b.changes = b.changes[:0]
		for ; from < to; from++ {
			c := b.change(from)
			size += 4 + changeBytes(c.key, c.value)
			if len(b.changes) > 0 && size > limit {
				break
			}
			b.changes = append(b.changes, c)
		}
		hint := uint16(0)
		if len(b.changes) == 1 {
			hint = hintOf(b.changes[0].key)
		}
		u.Append(v, appendChanges(nil, kindLeafOne, b.changes), hint)
	}
}

func (b *batch) change(i int) change {
	op := &b.ops[i]
	switch list, large := b.lists[i]; {
	case op.Delete:
		return change{key: op.Key, flags: entryTombstone}
	case large:
		return change{key: op.Key, value: list, flags: entryIndirect}
	}
	return change{key: op.Key, value: op.Value}
}
