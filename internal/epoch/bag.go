package epoch

import (
	"sync/atomic"

	"github.com/pulkdb/db/internal/invariant"
)

const itemsPerChunk = 253 // makes a chunk 2 KiB

// A bagChunk is a piece of a bag: a stack of chunks of which the first has room.
//
// It is in one of four places:
//
//	in a bag     any goroutine pinned at the bag's epoch may take a place, by
//	             adding to used, and then owns that item
//	emptied      the goroutine that steps owns it
//	free list    nobody's; popping passes it to the popper
//	spare        nobody's; the Swap passes it to whoever made it
type bagChunk struct {
	used  atomic.Uint64 // places taken; above len(items) when full
	next  atomic.Pointer[bagChunk]
	items [itemsPerChunk]uint64
}

// push puts item into the bag.
// REQUIRES: the caller is pinned, and may push to this bag (see doc.go).
func (d *Domain) push(s *stripe, bag *atomic.Pointer[bagChunk], item uint64) {
	for {
		c := bag.Load()
		if c != nil {
			if i := c.used.Add(1) - 1; i < itemsPerChunk {
				if invariant.Debug {
					invariant.Pause()
				}
				c.items[i] = item
				return
			}
		}
		fresh := d.takeChunk(s)
		fresh.items[0] = item
		fresh.used.Store(1)
		fresh.next.Store(c)
		if invariant.Debug {
			invariant.Pause()
		}
		if bag.CompareAndSwap(c, fresh) {
			return
		}
		s.spare.Store(fresh) // a spare that is overwritten is the collector's
	}
}

// takeChunk returns an unused chunk.
func (d *Domain) takeChunk(s *stripe) *bagChunk {
	if c := s.spare.Swap(nil); c != nil {
		return c
	}
	if c := d.chunks.pop(); c != nil {
		return c
	}
	return new(bagChunk)
}

// empty reclaims what was retired in epoch e.
// REQUIRES: the caller holds stepping, and no push to e is under way.
func (d *Domain) empty(e uint64) {
	for i := range d.stripes {
		c := d.stripes[i].bags[e%numBags].Swap(nil)
		for c != nil {
			n := min(c.used.Load(), itemsPerChunk)
			for _, item := range c.items[:n] {
				if invariant.Debug {
					d.pending.reclaim(item, d.reclaim)
					continue
				}
				d.reclaim(item)
			}
			d.reclaimed.Add(int64(n))
			next := c.next.Load()
			d.chunks.push(c)
			c = next
		}
	}
}

// maxFreeChunks bounds the free list; more are left to the collector.
const maxFreeChunks = 256

// A chunkList is a stack of unused chunks.
//
// A popper may read the next of a chunk that another has popped and reused
// meanwhile. Its CAS of head then fails, so what it read does no harm.
//
// Popping needs no defence against a head that left and came back (ABA): poppers
// are pinned, and only emptying a bag pushes. A chunk popped while some popper
// is pinned at p goes into a bag of p or p+1, which is emptied when the epoch
// is p+2 or more, that is, after the popper unpinned.
type chunkList struct {
	head  atomic.Pointer[bagChunk]
	count atomic.Int64 // approximate
}

// push is called only by the holder of stepping.
func (l *chunkList) push(c *bagChunk) {
	if l.count.Load() >= maxFreeChunks {
		return
	}
	l.count.Add(1)
	for {
		head := l.head.Load()
		c.next.Store(head)
		if l.head.CompareAndSwap(head, c) {
			return
		}
	}
}

// pop returns a chunk or nil. REQUIRES: the caller is pinned.
func (l *chunkList) pop() *bagChunk {
	for {
		head := l.head.Load()
		if head == nil {
			return nil
		}
		if l.head.CompareAndSwap(head, head.next.Load()) {
			l.count.Add(-1)
			return head
		}
	}
}
