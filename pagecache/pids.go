package pagecache

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/log"
)

// pids hands out page identifiers. A freed one goes through
//
//	in use -> retired    its page is freed; guards may still see the page
//	       -> waiting    no such guard remains; in queue. The cleaner may write
//	                     the record that freed it anew, and change its slot
//	       -> handed out the record that freed it is durable; its slot has the
//	                     writer bit and belongs to the Update that took it
//	       -> in use     or waiting again, if that Update does not happen
//
// so neither a reader nor a crash can take the new page for the old one (P5).
type pids struct {
	mu    sync.Mutex
	queue []PID // Guarded by mu. Waiting, oldest first.
	next  PID   // Guarded by mu. The first that was never used.
}

// Items handed to the epochs: an arena reference, or a PID shifted by four and
// marked.
const retiredPID = 1

// reclaim is called by the epochs for each retired item.
func (c *Cache) reclaim(item uint64) {
	if item&15 == retiredPID {
		c.pids.mu.Lock()
		c.pids.queue = append(c.pids.queue, PID(item>>4))
		c.pids.mu.Unlock()
		return
	}
	c.arena.FreeAs(arena.Ref(item), memoryRetired)
}

// retirePID has a PID wait until no guard is left that may have seen its page.
func (c *Cache) retirePID(g epoch.Guard, pid PID) {
	item := uint64(pid)<<4 | retiredPID
	if testhooks.LoseLimbo.On() {
		c.reclaim(item)
		return
	}
	c.epochs.Retire(g, item)
}

// own sets the writer bit of a PID that was handed out, and returns the word of
// its slot without it. A bit that is set already would mean that the PID was handed
// out twice, and then both its owners would retire what they replace.
func (t *table) own(pid PID) (slot *atomic.Uint64, before uint64) {
	slot = t.reach(pid)
	for {
		before = slot.Load()
		invariant.Check(before&slotWriter == 0, "pagecache: a page identifier was handed out twice")
		if slot.CompareAndSwap(before, before|slotWriter) {
			return slot, before
		}
	}
}

// take hands out a PID.
func (p *pids) take(c *Cache) (PID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.durablyFree(c, p.queue[0]) {
		pid := p.queue[0]
		p.queue = p.queue[1:]
		paths.Hit(paths.ReusePID)
		return pid, nil
	}
	if p.next >= maxPIDs {
		return 0, fmt.Errorf("pagecache: no page identifiers left: %w", ErrTooLarge)
	}
	pid := p.next
	p.next++
	return pid, nil
}

// durablyFree reports whether the record that freed pid is durable.
func (p *pids) durablyFree(c *Cache, pid PID) bool {
	if testhooks.LoseLimbo.On() {
		return true
	}
	word := c.table.slot(pid).Load()
	if word == 0 {
		return true
	}
	return c.groups.settled(c.freeAt(word).position(), c.log.Durable(log.Fresh))
}

// max is the largest PID handed out so far.
func (p *pids) max() PID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next - 1
}

// free is the number of PIDs that wait.
func (p *pids) free() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// used is the number of PIDs that do not wait.
func (p *pids) used() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.next) - 1 - int64(len(p.queue))
}
