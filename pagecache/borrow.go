package pagecache

import (
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/arena"
)

// A page that is not in memory and whose writer bit somebody holds cannot be
// loaded into its slot: only the holder changes that. So that readers need not
// wait for it, what they read is put beside the table: a base that stands for the
// page's absent node, to Views that find the bit set and that node at the bottom
// of the chain. No update can be made with such a View, since it is Owned.
//
// A borrowed base is unpublished, which is its linearization point, when somebody
// finds that its page is not owned any more or has another bottom; then it is
// retired, since Views of it may be about (P3).
type borrowed struct {
	count atomic.Int64 // pages; readers look no further if there are none

	mu    sync.Mutex
	pages map[PID]borrowedBase // Guarded by mu.
}

type borrowedBase struct {
	bottom uint64 // reference of the absent node that it stands for
	base   arena.Ref
}

// findBorrowed returns the base that stands for the absent node at bottom, or nil.
//
// REQUIRES: a guard pinned since before bottom was read.
func (c *Cache) findBorrowed(pid PID, bottom uint64) *bottomNode {
	b := &c.borrowed
	if b.count.Load() == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pages[pid]
	if !ok || p.bottom != bottom {
		return nil
	}
	// The memory of the absent node may have been reused for another one of this
	// page; the version tells (P4).
	base := c.bottomAt(uint64(p.base))
	if base.version != c.bottomAt(bottom).version {
		return nil
	}
	return base
}

// lend puts a base beside the table for v, whose bottom is absent. The base has
// what was read of the log and none of the deltas in memory.
func (c *Cache) lend(s *scratch, v View, read []Fragment) error {
	m := &s.merging
	m.reset(v.pid)
	m.Fragments = append(m.Fragments, read...)
	m.Base, m.KeepAll, m.Clock = true, true, c.clock.Load()
	data := read[0].Data
	if len(read) > 1 {
		var err error
		if data, err = c.merge(s.data[:0], m); err != nil {
			return err
		}
		s.data = data
	}
	ref, base := c.newBottom(nodeBase, v.bottom.version, v.bottom.stamp, 0, data)
	base.flags = v.bottom.flags
	b := &c.borrowed
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.pages[v.pid]; ok {
		c.retireBorrowed(v.pid, old)
	}
	b.pages[v.pid] = borrowedBase{bottom: v.bottomRef(), base: ref}
	b.count.Add(1)
	return nil
}

// bottomRef is the reference of the view's bottom node in its slot's chain.
func (v View) bottomRef() uint64 {
	if d := v.top(); d != nil {
		return d.bottom
	}
	return v.word & slotRefMask
}

// retireBorrowed takes a base away. REQUIRES: c.borrowed.mu is held.
func (c *Cache) retireBorrowed(pid PID, p borrowedBase) {
	delete(c.borrowed.pages, pid)
	c.borrowed.count.Add(-1)
	g := c.epochs.Pin()
	c.retireNode(g, uint64(p.base))
	g.Unpin()
}

// dropBorrowed takes away what nobody needs any more.
func (c *Cache) dropBorrowed() {
	b := &c.borrowed
	if b.count.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for pid, p := range b.pages {
		if c.table.slot(pid).Load()&slotWriter == 0 {
			c.retireBorrowed(pid, p)
		}
	}
}
