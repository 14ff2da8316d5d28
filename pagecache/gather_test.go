package pagecache

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// scattered makes a page of n fragments with gap bytes of other pages' records between
// them, and evicts it. It returns what the page reads as.
func scattered(t *testing.T, c *Cache, n, gap int) (PID, string) {
	t.Helper()
	other, _ := mustAllocate(t, c, "")
	pid, key := mustAllocate(t, c, "base")
	want := "base"
	for range n - 1 {
		_, k, err := c.Get(other)
		require.NoError(t, err)
		for left := gap; left > 0; left -= 1000 {
			k, err = c.Set(other, k, []byte(strings.Repeat("-", min(left, 1000))))
			require.NoError(t, err)
		}
		key, err = c.Merge(pid, key, []byte("+"))
		require.NoError(t, err)
		want += "+"
	}
	require.NoError(t, c.Sync())
	c.evictAll()
	return pid, want
}

func places(c *Cache, pid PID) int {
	g := c.Pin()
	defer g.Unpin()
	v, err := c.Peek(g, pid)
	if err != nil || v.Resident() {
		return 0
	}
	_, n := v.LogBytes()
	return n
}

func quietOnDisk() Options {
	o := quiet(vfs.NewMem(), stringPages{})
	o.LoadReads, o.MergeDeltas, o.RewriteShare, o.IdleAfter = 16, 100, 100_000, -1
	o.SegmentBytes, o.BufferBytes = 1<<20, 16<<10
	return o
}

// Fragments that lie near each other are read together, others one by one.
func TestNeighboursAreReadTogether(t *testing.T) {
	for _, x := range []struct{ gap, reads int }{{100, 1}, {readGap - 1500, 1}, {readGap + 100, 6}} {
		c := mustOpen(t, quietOnDisk())
		pid, want := scattered(t, c, 6, x.gap)
		require.Equal(t, 6, places(c, pid), "gap %d", x.gap)
		before := c.Metrics()
		require.Equal(t, want, mustGet(t, c, pid))
		now := c.Metrics()
		require.EqualValues(t, x.reads, now.FragmentReads-before.FragmentReads, "gap %d", x.gap)
		require.NoError(t, c.Close())
	}
}

// A page that was waited for is in one place when it leaves memory again, and is the
// same page; one that a scan has read stays as it is.
func TestWhatWasReadLeavesMerged(t *testing.T) {
	c := mustOpen(t, quietOnDisk())
	defer func() { require.NoError(t, c.Close()) }()
	pid, want := scattered(t, c, 6, readGap+100)
	require.NoError(t, c.LoadToScan(pid))
	c.evictAll()
	require.Equal(t, 6, places(c, pid))

	_, key, err := c.Get(pid)
	require.NoError(t, err)
	c.evictAll()
	require.Equal(t, 1, places(c, pid))
	require.EqualValues(t, 1, c.Metrics().Gathered)
	now, again, err := c.Get(pid)
	require.NoError(t, err)
	require.Equal(t, want, string(now))
	require.Equal(t, key, again, "merging changes no version")
	written := c.Metrics().Log.BytesWritten
	c.evictAll()
	require.NoError(t, c.Sync())
	require.Less(t, c.Metrics().Log.BytesWritten-written, uint64(4<<10), "a page in one place is not written again")
}

// While nobody uses the store, scattered pages are merged, until none is left.
func TestIdleStoreIsGathered(t *testing.T) {
	o := quietOnDisk()
	o.IdleAfter = time.Millisecond
	c := mustOpen(t, o)
	defer func() { require.NoError(t, c.Close()) }()
	want := map[PID]string{}
	for range 40 {
		pid, page := scattered(t, c, 5, 100)
		want[pid] = page
	}
	require.Eventually(t, func() bool {
		for pid := range want {
			if places(c, pid) > gatheredPlaces {
				return false
			}
		}
		return true
	}, 20*time.Second, 10*time.Millisecond)
	for pid, page := range want {
		require.Equal(t, page, mustGet(t, c, pid))
	}
}

// An idle store ends its log with a durable mark, so that after a crash damage to what was
// written last is found; only one with a FlushInterval did, and the others lost it
// without a word.
func TestIdleStoreIsMarked(t *testing.T) {
	fs := vfs.NewMem()
	o := quietOnDisk()
	o.FS, o.IdleAfter = fs, time.Millisecond
	c := mustOpen(t, o)
	mustAllocate(t, c, "a")
	require.NoError(t, c.Sync())
	last := c.log.Tail(log.Fresh) - 1
	base := c.log.SegmentOf(last)
	name := filepath.Join(o.Dir, fmt.Sprintf("%016x.seg", uint64(base)))
	require.Eventually(t, func() bool {
		crashed := fs.CrashClone(0)
		require.True(t, crashed.Corrupt(name, int64(last-base), 0))
		o.FS = crashed
		d, err := Open(o)
		if err == nil {
			require.NoError(t, d.Close())
		}
		return errors.Is(err, log.ErrCorrupt)
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, c.Close())
}

// A crash anywhere between gathering and the next sync loses nothing.
func TestCrashWhileGathering(t *testing.T) {
	fs := vfs.NewMem()
	o := quietOnDisk()
	o.FS = fs
	c := mustOpen(t, o)
	pid, want := scattered(t, c, 6, 100)
	require.NoError(t, c.Sync())
	c.gatherPage(pid)
	require.Equal(t, 1, places(c, pid))
	require.NoError(t, c.log.WaitDurable(log.Survivors, c.log.Tail(log.Survivors)))
	for _, crashed := range []*vfs.Mem{fs.CrashClone(0), fs.CrashClone(1)} {
		o.FS = crashed
		d := mustOpen(t, o)
		require.Equal(t, want, mustGet(t, d, pid))
		require.NoError(t, d.Close())
	}
	require.NoError(t, c.Close())
}

// A page that was named twice is written once, and counted as gathered and not as the
// cleaner's: the second naming had written it again, and all of it stood in the
// cleaner's figures.
func TestNamedTwiceIsWrittenOnce(t *testing.T) {
	c := mustOpen(t, quietOnDisk())
	defer func() { require.NoError(t, c.Close()) }()
	pid, want := scattered(t, c, 6, readGap+100)
	name := func() { // without waking the gatherer, which is called here
		c.gather.mu.Lock()
		c.gather.named = append(c.gather.named, pid, pid)
		c.gather.mu.Unlock()
		c.gatherNamed()
	}
	name()
	name()
	m := c.Metrics()
	require.EqualValues(t, 1, m.Gathered)
	require.EqualValues(t, 6, m.GatherReads)
	require.EqualValues(t, len(want), m.GatheredBytes)
	require.Zero(t, m.CleanerReads)
	require.Zero(t, m.RewrittenBytes)
	require.Equal(t, want, mustGet(t, c, pid))
}

// bufferPages look, as they are merged, at what buffers take.
type bufferPages struct {
	stringPages
	look func()
}

func (p bufferPages) Merge(dst []byte, m *Merging) ([]byte, error) {
	p.look()
	return p.stringPages.Merge(dst, m)
}

// What a load reads counts towards CacheSize as long as it is held, the gaps between
// neighbours included: it was not counted at all.
func TestBuffersOfLoadsCount(t *testing.T) {
	var c *Cache
	var most int64
	o := quietOnDisk()
	o.Materializer = bufferPages{look: func() {
		if c != nil {
			most = max(most, c.loads.bytes.Load())
		}
	}}
	c = mustOpen(t, o)
	defer func() { require.NoError(t, c.Close()) }()
	pid, want := scattered(t, c, 3, 8000)
	most = 0
	require.Equal(t, want, mustGet(t, c, pid))
	require.Greater(t, most, int64(2*8000))
	require.Less(t, most, int64(2*readGap))
	require.Zero(t, c.loads.bytes.Load())
}
