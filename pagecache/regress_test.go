package pagecache

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// hookYield sets the yield hook until the test ends. It is called before the
// cache is opened, so that its cleanup runs after the cache is closed.
func hookYield(t *testing.T, hook func(yieldPoint)) {
	yieldHook = hook
	t.Cleanup(func() { yieldHook = nil })
}

// quiet is tiny without a cleaner, checkpointer or evictor that acts unasked.
func quiet(fs vfs.FS, m Materializer) Options {
	o := tiny(fs, m)
	o.CacheSize, o.SnapshotBytes = 64<<20, 1<<40
	return o
}

func mustAllocate(t *testing.T, c *Cache, base string) (PID, Key) {
	t.Helper()
	pid, key, err := c.Allocate([]byte(base))
	require.NoError(t, err)
	return pid, key
}

func mustGet(t *testing.T, c *Cache, pid PID) string {
	t.Helper()
	page, _, err := c.Get(pid)
	require.NoError(t, err)
	return string(page)
}

func accountsFit(t *testing.T, c *Cache) {
	t.Helper()
	(&model{t: t, cache: c}).checkAccounts()
}

// TestCleanerLeavesAPIDThatIsHandedOut: the cleaner may want to move the record
// that freed a PID while an Update reuses it. Only one of them may replace the
// free node (P3).
func TestCleanerLeavesAPIDThatIsHandedOut(t *testing.T) {
	for _, commit := range []bool{true, false} {
		t.Run(fmt.Sprint("commit=", commit), func(t *testing.T) {
			c := mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
			pid, key := mustAllocate(t, c, "first")
			require.NoError(t, c.Free(pid, key))
			require.NoError(t, c.Sync())
			c.waitForGuards()
			u := c.Begin()
			again, err := u.Allocate([]byte("second"))
			require.NoError(t, err)
			require.Equal(t, pid, again)
			_, _, err = c.tryMoveFree(pid)
			require.NoError(t, err)
			if commit {
				_, err = u.Commit()
				require.NoError(t, err)
				require.Equal(t, "second", mustGet(t, c, pid))
			} else {
				u.Discard()
			}
			accountsFit(t, c)
			require.NoError(t, c.Close())
		})
	}
}

// TestDecidingPageIsHeldUntilReady: between the publication of an Update's
// deciding page and the moment its deltas appear, nobody may build on that page:
// what is on top of a delta that readers skip would be skipped too, though its
// writer was told that it is done (P8, P10).
func TestDecidingPageIsHeldUntilReady(t *testing.T) {
	var c *Cache
	var a PID
	var other chan error
	hooked := false
	hookYield(t, func(p yieldPoint) {
		if p != yieldUpdateReady || hooked || other == nil {
			return
		}
		hooked = true
		go func() {
			u := c.Begin()
			v, err := u.Acquire(a)
			if err != nil {
				u.Discard()
				other <- err
				return
			}
			u.Append(v, []byte("2"), 0)
			_, err = u.Commit()
			if page, _, gerr := c.Get(a); err == nil && (gerr != nil || !strings.Contains(string(page), "2")) {
				err = fmt.Errorf("appended and not seen: %q, %v", page, gerr)
			}
			other <- err
		}()
		time.Sleep(20 * time.Millisecond)
	})
	c = mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
	a, _ = mustAllocate(t, c, "a")
	b, _ := mustAllocate(t, c, "b")
	other = make(chan error, 1)
	u := c.Begin()
	va, err := c.View(u.guard, a)
	require.NoError(t, err)
	vb, err := u.Acquire(b)
	require.NoError(t, err)
	u.Append(va, []byte("1"), 0) // a decides
	u.Append(vb, []byte("1"), 0)
	r, err := u.Commit()
	require.NoError(t, err)
	require.Equal(t, Done, r.Outcome)
	require.NoError(t, <-other)
	require.Equal(t, "a12", mustGet(t, c, a))
	require.NoError(t, c.Close())
}

// TestLoadWhileTheDecidingPageIsInstalled: a page can be loaded at any time, also
// while blind deltas are being installed on it.
func TestLoadWhileTheDecidingPageIsInstalled(t *testing.T) {
	var c *Cache
	var a PID
	var loaded chan error
	hookYield(t, func(p yieldPoint) {
		if p != yieldUpdateReady || loaded == nil {
			return
		}
		go func() { loaded <- c.Load(a) }()
		time.Sleep(20 * time.Millisecond)
	})
	c = mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
	a, _ = mustAllocate(t, c, "a")
	b, _ := mustAllocate(t, c, "b")
	require.NoError(t, c.Sync())
	c.evictAll()
	loaded = make(chan error, 1)
	u := c.Begin()
	va, err := c.View(u.guard, a)
	require.NoError(t, err)
	require.False(t, va.Resident())
	vb, err := u.Acquire(b)
	require.NoError(t, err)
	u.Append(va, []byte("1"), 0)
	u.Append(vb, []byte("1"), 0)
	_, err = u.Commit()
	require.NoError(t, err)
	require.NoError(t, <-loaded)
	require.Equal(t, "a1", mustGet(t, c, a))
	require.NoError(t, c.Close())
}

// TestCheckpointMeetsAPIDWithoutASlot: a PID is handed out before the table
// reaches it.
func TestCheckpointMeetsAPIDWithoutASlot(t *testing.T) {
	c := mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
	mustAllocate(t, c, "page")
	for c.pids.max() < tableChunkSlots {
		_, err := c.pids.take(c)
		require.NoError(t, err)
	}
	require.NoError(t, c.writeCheckpoint())
	require.NoError(t, c.Close())
}

// TestHelpAfterClose: a writer that was told to help the evictor may come to it
// only when the cache is closed and page memory gone.
func TestHelpAfterClose(t *testing.T) {
	c := mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
	for range 100 {
		mustAllocate(t, c, "page")
	}
	require.NoError(t, c.Close())
	c.help()
}

// TestReadOnlyKeepsWithinTheBudget: who only reads evicts too, also pages that
// are in more places than Options.LoadReads, which nobody may rewrite.
func TestReadOnlyKeepsWithinTheBudget(t *testing.T) {
	fs := vfs.NewMem()
	o := tiny(fs, stringPages{})
	c := mustOpen(t, quiet(fs, stringPages{}))
	var pids []PID
	for range 300 {
		pid, _ := mustAllocate(t, c, strings.Repeat("x", 1000))
		pids = append(pids, pid)
	}
	for range o.LoadReads + 2 {
		require.NoError(t, c.Sync())
		c.evictAll()
		for _, pid := range pids {
			for done := false; !done; { // the gatherer may be at work on the page
				pinned(c, func(g epoch.Guard) {
					v, err := c.View(g, pid)
					require.NoError(t, err)
					r, err := c.Append(g, v, []byte("y"), 0)
					require.NoError(t, err)
					done = r.Outcome == Done
				})
			}
		}
	}
	require.NoError(t, c.Close())
	o.ReadOnly = true
	c = mustOpen(t, o)
	for _, pid := range pids {
		require.Len(t, mustGet(t, c, pid), 1000+o.LoadReads+2)
	}
	require.Eventually(t, func() bool {
		c.epochs.TryAdvance()
		return c.Metrics().MemoryBytes <= o.CacheSize*11/10
	}, 5*time.Second, time.Millisecond, "%d bytes", c.Metrics().MemoryBytes)
	require.NoError(t, c.Close())
}

// TestBlindUpdatesDoNotPileUp: a page that is updated again and again and never
// read must not come to stand in ever more places of the log.
func TestBlindUpdatesDoNotPileUp(t *testing.T) {
	o := quiet(vfs.NewMem(), stringPages{})
	o.BufferBytes = 8 << 10
	c := mustOpen(t, o)
	pid, key := mustAllocate(t, c, "base")
	for n := range 1200 {
		if n%2 == 0 {
			require.NoError(t, c.log.WaitDurable(log.Fresh, c.log.Tail(log.Fresh)))
			c.sweepUntil(0)
		}
		var err error
		key, err = c.Merge(pid, key, []byte("x"))
		require.NoError(t, err)
	}
	n := 0
	pinned(c, func(g epoch.Guard) {
		v, err := c.View(g, pid)
		require.NoError(t, err)
		n = int(v.bottom.positions) + v.Deltas()
	})
	require.Less(t, n, 3*rewritePositionsMax)
	require.Equal(t, "base"+strings.Repeat("x", 1200), mustGet(t, c, pid))
	accountsFit(t, c)
	require.NoError(t, c.Close())
}

// TestMergeThatCannotBeFolded: an error of the materializer after a delta was
// added must not look as if the delta was not.
func TestMergeThatCannotBeFolded(t *testing.T) {
	o := quiet(vfs.NewMem(), counterPages{})
	o.MergeDeltas = 1
	c := mustOpen(t, o)
	pid, key, err := c.Allocate(nil)
	require.NoError(t, err)
	next, err := c.Merge(pid, key, []byte("bad"))
	require.NoError(t, err)
	require.Equal(t, key.version+1, next.version)
	_, _, err = c.Get(pid)
	require.ErrorContains(t, err, "delta of 3 bytes")
	require.NoError(t, c.Close())
}

// TestHalfDurableGroupIsNotMoved: a page with a change from an early part of a
// group, durable while the last part is not, must not go to the survivors: a
// crash would keep that change and drop the rest of the Update (P10).
func TestHalfDurableGroupIsNotMoved(t *testing.T) {
	var c *Cache
	var armed atomic.Bool // the cleaner may pass as well
	hookYield(t, func(p yieldPoint) {
		if p == yieldUpdatePart && armed.Load() {
			if err := c.Sync(); err != nil {
				t.Error(err)
			}
		}
	})
	fs := vfs.NewMem()
	c = mustOpen(t, quiet(fs, stringPages{}))
	x, _ := mustAllocate(t, c, "x")
	y, _ := mustAllocate(t, c, "y")
	require.NoError(t, c.Sync())
	armed.Store(true)
	u := c.Begin()
	for _, pid := range []PID{x, y} {
		v, err := u.Acquire(pid)
		require.NoError(t, err)
		u.Append(v, []byte(strings.Repeat("z", 1500)), 0)
	}
	_, err := u.Commit()
	require.NoError(t, err)
	armed.Store(false)
	require.NoError(t, c.movePage(x, c.log.SegmentOf(firstPosition(t, c, x).LSN)))
	require.NoError(t, c.log.WaitDurable(log.Survivors, c.log.Tail(log.Survivors)))
	crashed := fs.CrashClone(0)
	require.NoError(t, c.Close())
	c = mustOpen(t, quiet(crashed, stringPages{}))
	require.Equal(t, len(mustGet(t, c, x)), len(mustGet(t, c, y)))
	require.NoError(t, c.Close())
}

func firstPosition(t *testing.T, c *Cache, pid PID) log.Position {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.View(g, pid)
	require.NoError(t, err)
	return v.bottom.position(0)
}

// TestSetOfAnOwnedPageWritesNothing: who waits for a writer bit must not fill the
// log with records that are aborted.
func TestSetOfAnOwnedPageWritesNothing(t *testing.T) {
	c := mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
	pid, key := mustAllocate(t, c, "page")
	u := c.Begin()
	_, err := u.Acquire(pid)
	require.NoError(t, err)
	tail := c.LogTail()
	done := make(chan error)
	go func() {
		_, err := c.Set(pid, key, []byte("next"))
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	require.Equal(t, tail, c.LogTail())
	u.Discard()
	require.NoError(t, <-done)
	require.Equal(t, "next", mustGet(t, c, pid))
	require.NoError(t, c.Close())
}

// TestConsolidatedBaseCarriesRecoveryState: a base that came about by folding is
// shown to the materializer like every other (P6).
func TestConsolidatedBaseCarriesRecoveryState(t *testing.T) {
	fs := vfs.NewMem()
	c := mustOpen(t, quiet(fs, stringPages{}))
	pid, key := mustAllocate(t, c, "roo")
	_, err := c.Merge(pid, key, []byte("t\x09"))
	require.NoError(t, err)
	pinned(c, func(g epoch.Guard) {
		v, err := c.View(g, pid)
		require.NoError(t, err)
		done, err := c.consolidate(g, v, true)
		require.NoError(t, err)
		require.True(t, done)
	})
	require.NoError(t, c.Close())
	c = mustOpen(t, quiet(fs, stringPages{}))
	r, ok := c.Recovered(0)
	require.True(t, ok)
	require.Equal(t, uint64(9), r.Generation)
	require.NoError(t, c.Close())
}

// TestAllocateAfterClose: nothing of page memory is touched then.
func TestAllocateAfterClose(t *testing.T) {
	c := mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
	pid, key := mustAllocate(t, c, "page")
	require.NoError(t, c.Free(pid, key))
	require.NoError(t, c.Close())
	u := c.Begin()
	_, err := u.Allocate(nil)
	require.ErrorIs(t, err, ErrClosed)
	u.Discard()
	_, _, err = c.Allocate(nil)
	require.ErrorIs(t, err, ErrClosed)
}

// TestFailedLogStillReads: after the log's first failed write, pages are read,
// memory stays within its budget, and Close returns the failure.
func TestFailedLogStillReads(t *testing.T) {
	broken := errors.New("broken")
	var failing switchable
	fs := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if failing.on() && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpSync) {
			return broken
		}
		return nil
	})
	o := tiny(fs, stringPages{})
	o.MergeDeltas = 100 // so that the pages stand in many places
	c := mustOpen(t, o)
	var pids []PID
	for range 300 {
		pid, key := mustAllocate(t, c, strings.Repeat("x", 500))
		for range 10 {
			var err error
			key, err = c.Merge(pid, key, []byte("y"))
			require.NoError(t, err)
		}
		pids = append(pids, pid)
	}
	require.NoError(t, c.Sync())
	failing.set()
	_, _, _ = c.Allocate(nil) // may be in time
	require.ErrorIs(t, c.Sync(), broken)
	_, _, err := c.Allocate(nil)
	require.ErrorIs(t, err, log.ErrFailed)
	for range 2 {
		for _, pid := range pids {
			require.Len(t, mustGet(t, c, pid), 510)
		}
	}
	require.Eventually(t, func() bool {
		c.epochs.TryAdvance()
		return c.Metrics().MemoryBytes <= o.CacheSize*12/10
	}, 5*time.Second, time.Millisecond)
	require.ErrorIs(t, c.Close(), broken)
}

// stampPages keeps, for each delta, its stamp in front of it.
type stampPages struct{ stringPages }

func (stampPages) Merge(dst []byte, m *Merging) ([]byte, error) {
	dst = append(dst, m.Fragments[0].Data...)
	for _, f := range m.Fragments[1:] {
		dst = fmt.Appendf(dst, "@%d:%.1s", f.Stamp, f.Data)
	}
	return dst, nil
}

// TestBlindDeltaOfAGroupKeepsItsStamp: the parts of a group before the last carry
// no stamps in the log. A page with a delta of one is not evicted while a read
// snapshot may need the stamp, whether or not its base is in memory (P8).
func TestBlindDeltaOfAGroupKeepsItsStamp(t *testing.T) {
	c := mustOpen(t, quiet(vfs.NewMem(), stampPages{}))
	x, _ := mustAllocate(t, c, "x")
	y, _ := mustAllocate(t, c, "y")
	require.NoError(t, c.Sync())
	c.evictAll()
	m := c.OpenMoment()
	u := c.Begin()
	for _, pid := range []PID{x, y} {
		v, err := u.Acquire(pid)
		require.NoError(t, err)
		require.False(t, v.Resident())
		u.Append(v, []byte(strings.Repeat("z", 1500)), 0)
	}
	_, err := u.Commit()
	require.NoError(t, err)
	require.NoError(t, c.Sync())
	for range 3 {
		c.evictAll()
		c.gatherNamed()
	}
	require.Equal(t, fmt.Sprintf("x@%d:z", m.Stamp()+1), mustGet(t, c, x))
	require.Equal(t, fmt.Sprintf("y@%d:z", m.Stamp()+1), mustGet(t, c, y))
	m.Close()
	accountsFit(t, c)
	require.NoError(t, c.Close())
}

// What a store may have of places depends on the pages that it has, not on those that
// it had: with the PIDs that were free counted, each time that it was filled and emptied
// left it with more pages when it was full again.
func TestPlacesOfStoreThatWasLarger(t *testing.T) {
	o := quiet(vfs.NewMem(), stringPages{})
	o.CacheSize, o.LoadReads = 64<<10, 32
	c := mustOpen(t, o)
	defer c.Close()
	c.choosePlacesMax()
	before := c.PlacesMax()
	const pages = 100
	var pids [pages]PID
	var keys [pages]Key
	for i := range pids {
		pids[i], keys[i] = mustAllocate(t, c, "page")
	}
	c.choosePlacesMax()
	require.Less(t, c.PlacesMax(), before)
	for i := range pids {
		require.NoError(t, c.Free(pids[i], keys[i]))
	}
	require.Eventually(t, func() bool {
		require.NoError(t, c.Sync())
		return c.pids.used() == 0
	}, 10*time.Second, time.Millisecond)
	c.choosePlacesMax()
	require.Equal(t, before, c.PlacesMax())
}
