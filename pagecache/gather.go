package pagecache

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/paths"
)

// Gathering writes pages merged because they stand in many places of the log, so that
// who reads them next finds them in few. Three kinds of pages are gathered:
//
//   - those that leave memory after somebody has waited for them, since what came
//     back once may do so again (see evictPage);
//   - those that are not in memory and that updates have put in so many places that
//     their positions take too much memory, or that MergeSoon names: in the background;
//   - all others that are not in memory, while nobody uses the store. That goes on
//     until none is left, half of the time at most, and stops at the first call.
//
// A gathered page is written by the cleaner's protocol (tryMoveEvicted), so its
// contents and version stay what they are.
type gatherer struct {
	// Atomic.
	active atomic.Bool   // the store was used since the gatherer last looked
	pages  atomic.Uint64 // written merged as they left memory, or in the background
	bytes  atomic.Uint64 // of those
	reads  atomic.Uint64 // of the log, for those in the background
	large  atomic.Pointer[largePages]

	wake chan struct{}

	mu    sync.Mutex
	named []PID // Guarded by mu. To be read and rewritten.

	// Owned by the goroutine.
	next PID // to look at
	left int // pages to look at until all have been since the store was used last
}

const (
	// gatheredPlaces is how many places a page may stand in that is not worth
	// gathering.
	gatheredPlaces = 2
	// gatherNamedMax bounds the PIDs that are remembered; what is left out comes up again.
	gatherNamedMax = 256

	gatherPoll       = 100 * time.Millisecond
	gatherBatch      = 64   // pages written between two rests, at most
	gatherBatchLooks = 4096 // and looked at
)

// largePages says what to do with those.
type largePages struct {
	bytes int
	tend  func(PID)
}

// TendLarge has pages whose fragments come to more than so many bytes in the log, and that
// would be gathered, given to tend instead: they may have grown, and be due to be split. It
// is called by a goroutine of the cache, before Close returns, and holds no guard.
func (c *Cache) TendLarge(bytes int, tend func(PID)) {
	c.gather.large.Store(&largePages{bytes, tend})
}

// noteUse says that the store is in use.
func (c *Cache) noteUse() {
	if !c.gather.active.Load() {
		c.gather.active.Store(true)
	}
}

// MergeSoon has a page that is not in memory written merged in the background. It is a
// hint: when there are too many, it is forgotten.
func (c *Cache) MergeSoon(pid PID) {
	c.gather.mu.Lock()
	if len(c.gather.named) < gatherNamedMax {
		c.gather.named = append(c.gather.named, pid)
	}
	c.gather.mu.Unlock()
	select {
	case c.gather.wake <- struct{}{}:
	default:
	}
}

// runGatherer is the gatherer's goroutine.
func (c *Cache) runGatherer() {
	defer c.background.Done()
	tick := time.NewTicker(gatherPoll)
	defer tick.Stop()
	quiet := time.Duration(0)
	for {
		select {
		case <-c.stop:
			return
		case <-c.gather.wake:
			c.gatherNamed()
			continue
		case <-tick.C:
		}
		if c.gather.active.Swap(false) {
			quiet = 0
			c.gather.left = int(c.pids.max())
			continue
		}
		if quiet += gatherPoll; quiet >= c.options.IdleAfter && c.options.IdleAfter > 0 {
			c.gatherIdle()
			c.log.MarkSoon()
		}
	}
}

// gatherNamed writes merged what MergeSoon has named.
func (c *Cache) gatherNamed() {
	c.gather.mu.Lock()
	pids := slices.Clone(c.gather.named)
	c.gather.named = c.gather.named[:0]
	c.gather.mu.Unlock()
	slices.Sort(pids) // a page that keeps growing is named again
	pids = slices.Compact(pids)
	for _, pid := range pids {
		if !c.writable() || c.stopping() || c.log.Throttle() != nil {
			return
		}
		if c.whole(pid) {
			continue
		}
		if l := c.gather.large.Load(); l != nil && c.scattered(pid) > l.bytes {
			l.tend(pid)
		} else {
			c.gatherPage(pid)
		}
	}
}

// gatherIdle goes on with the pages that nobody uses until the store is used or
// there are none left.
func (c *Cache) gatherIdle() {
	k := &c.gather
	for k.left > 0 && c.mayGather(true) && !k.active.Load() && !c.stopping() {
		start := time.Now()
		for written, looked := 0, 0; k.left > 0 && written < gatherBatch && looked < gatherBatchLooks; looked++ {
			if k.next++; k.next > c.pids.max() {
				k.next = 1
			}
			k.left--
			if n := c.scattered(k.next); n == 0 {
				continue
			} else if k.active.Load() || c.log.Throttle() != nil {
				return
			} else if l := k.large.Load(); l != nil && n > l.bytes {
				l.tend(k.next)
				k.active.Store(false) // that was not somebody else
			} else {
				c.gatherPage(k.next)
			}
			written++
		}
		select {
		case <-c.stop:
		case <-time.After(time.Since(start)):
		}
	}
}

// mayGather reports whether there is room in the log for what is not needed now: an idle
// store is gathered while writers would not be slowed, and a page that leaves memory while
// space is not far above its goal, near which the cleaner leaves it.
func (c *Cache) mayGather(idle bool) bool {
	return c.writable() && !c.log.Busy() && (!idle && c.space.room.Load() > 0 || c.space.pace.Load() == 0)
}

// scattered returns the bytes of a page's fragments in the log if it is not in memory and
// worth gathering, or 0.
func (c *Cache) scattered(pid PID) int {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil || v.Resident() || v.Owned() {
		return 0
	}
	n, places := v.LogBytes()
	if places <= gatheredPlaces {
		return 0
	}
	return n
}

// whole reports whether merging would change nothing of a page: it is in one place, with
// its stamps. A page is named again while it waits, and may come up after it was merged.
func (c *Cache) whole(pid PID) bool {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil {
		return true
	}
	_, places := v.LogBytes()
	return places <= 1 && v.bottom.flags&nodePartUnstamped == 0
}

// gatherPage writes an absent page merged. A failure is met again by who reads
// the page.
//
// REQUIRES: the caller holds no guard.
func (c *Cache) gatherPage(pid PID) {
	done, err := c.tryMoveEvicted(pid, &c.gather.reads, &c.gather.bytes)
	if done {
		c.gather.pages.Add(1)
		paths.Hit(paths.Gathered)
	}
	if ignoreGone(err) != nil && !errors.Is(err, ErrClosed) {
		c.options.Logger.Warn("pagecache: rewriting a page with many updates failed", "pid", uint64(pid), "error", err)
	}
}

// noteGathered counts a page that was just written as it leaves memory. Somebody may
// have written it anew since, which counts then.
func (c *Cache) noteGathered(g epoch.Guard, pid PID) {
	c.gather.pages.Add(1)
	paths.Hit(paths.Gathered)
	if v, err := c.Peek(g, pid); err == nil && v.bottom.positions > 0 {
		c.gather.bytes.Add(uint64(v.bottom.position(0).Size))
	}
}
