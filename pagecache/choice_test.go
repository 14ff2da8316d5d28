package pagecache

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// TestSegmentIsTriedAgain: a segment that cannot be read now is cleaned when it can be,
// unless it is corrupt. It was left alone until the next Open.
func TestSegmentIsTriedAgain(t *testing.T) {
	broken := errors.New("broken")
	var failing switchable
	mem := vfs.NewMem()
	fs := vfs.NewFault(mem, func(op vfs.Op) error {
		if failing.on() && op.Kind == vfs.OpRead {
			return broken
		}
		return nil
	})
	o := quiet(fs, stringPages{})
	o.SpaceTarget = 10_000 // the cleaner rests
	c := mustOpen(t, o)
	for range 300 {
		pid, key := mustAllocate(t, c, strings.Repeat("x", 150))
		_, err := c.Set(pid, key, []byte(strings.Repeat("y", 150)))
		require.NoError(t, err)
	}
	require.NoError(t, c.Sync())
	c.clean.mu.Lock()
	segments := c.log.Segments()
	first := segments[0]
	v := victim{base: first.Base, size: c.sizeOf(first)}
	offered := func() bool {
		for _, s := range segments[1:] {
			c.clean.refused[s.Base] = refusal{corrupt: true} // there is no other
		}
		return len(c.bestVictims(segments)) > 0
	}
	require.True(t, offered())
	failing.set()
	require.False(t, c.cleanVictim(v))
	failing.flag.Store(false)
	require.False(t, offered(), "not at once")
	r := c.clean.refused[first.Base]
	require.Equal(t, cleanRetry, r.pause)
	r.until = time.Now()
	c.clean.refused[first.Base] = r
	require.True(t, offered())

	f, err := mem.OpenFile(fmt.Sprintf("store/%016x.seg", uint64(first.Base)), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("?", 400)), 200)
	require.NoError(t, err)
	require.False(t, c.cleanVictim(v))
	r = c.clean.refused[first.Base]
	require.Equal(t, 2*cleanRetry, r.pause)
	r.until = time.Now()
	c.clean.refused[first.Base] = r
	require.False(t, offered(), "it is corrupt")
	c.clean.mu.Unlock()
	require.NoError(t, c.Close())
}

// TestNoSurveyForNothing: while nothing is written, a survey that found no segment worth
// cleaning is not made again. It was made every few milliseconds, for ever, in a store that
// stays above its goal.
func TestNoSurveyForNothing(t *testing.T) {
	c := openRested(t, vfs.NewMem())
	c.clean.mu.Lock()
	segments := c.log.Segments()
	require.False(t, c.cleanNext(segments), "all is live")
	c.clean.reserve = -1 // a survey sets it
	require.False(t, c.cleanNext(segments))
	require.EqualValues(t, -1, c.clean.reserve)
	c.clean.barren.at = c.clean.barren.at.Add(-cleanRetry)
	require.False(t, c.cleanNext(segments))
	require.Zero(t, c.clean.reserve)
	c.clean.mu.Unlock()
	for range c.options.SegmentBytes / 150 {
		mustAllocate(t, c, strings.Repeat("x", 150))
	}
	c.clean.mu.Lock()
	c.clean.reserve = -1
	require.False(t, c.cleanNext(segments))
	require.Zero(t, c.clean.reserve)
	c.clean.mu.Unlock()
	require.NoError(t, c.Close())
}

// TestSmallPagesStay: what records take beside their updates is no gain, since whatever is
// moved takes it again. With a target near the data the cleaner moved small pages as long
// as they were written, each twenty times, and writers were held up.
func TestSmallPagesStay(t *testing.T) {
	o := quiet(vfs.NewMem(), stringPages{})
	o.SpaceTarget, o.SegmentBytes = SpaceTargetMin, 4<<10
	c := mustOpen(t, o)
	for range 10_000 {
		mustAllocate(t, c, strings.Repeat("x", 50))
	}
	require.NoError(t, c.Sync())
	c.cleanOnce()
	m := c.Metrics()
	require.Zero(t, m.MovedPages)
	require.Zero(t, m.SlowedWrites)
	require.Less(t, m.SpaceBytes, m.SpaceGoal)
	require.NoError(t, c.Close())
}

// TestNoLimit: who gives the largest numbers there are means that there is no limit.
// Percentages of them overflowed, to a goal at the data and a cache that evicts for ever.
func TestNoLimit(t *testing.T) {
	for _, x := range []struct {
		target int
		cache  int64
	}{{math.MaxInt, math.MaxInt64}, {math.MaxInt / 2, 1 << 58}, {math.MaxInt - 1, math.MaxInt64 / 3}} {
		o := quiet(vfs.NewMem(), stringPages{})
		o.SpaceTarget, o.CacheSize = x.target, x.cache
		c := mustOpen(t, o)
		for range 1000 {
			pid, key := mustAllocate(t, c, strings.Repeat("x", 500))
			_, err := c.Set(pid, key, []byte(strings.Repeat("y", 500)))
			require.NoError(t, err)
		}
		require.NoError(t, c.Sync())
		c.noteGrowth()
		c.cleanOnce()
		m := c.Metrics()
		require.Greater(t, m.SpaceGoal, 50*m.LiveBytes)
		require.Zero(t, m.MovedPages)
		require.Zero(t, m.Evictions)
		require.False(t, c.evict.tight.Load())
		require.Positive(t, c.space.turn.Load())
		require.NoError(t, c.Close())
	}
}

// TestSpaceAfterOpen: page-table snapshots count as files from the start. They did only
// from the first on that was written after Open, and never in a store that is read.
func TestSpaceAfterOpen(t *testing.T) {
	fs := vfs.NewMem()
	c := mustOpen(t, quiet(fs, stringPages{}))
	for range 300 {
		mustAllocate(t, c, strings.Repeat("x", 150))
	}
	require.NoError(t, c.Close())
	o := quiet(fs, stringPages{})
	o.ReadOnly = true
	c = mustOpen(t, o)
	segments, all := 0, 0
	names, err := fs.ReadDir("store")
	require.NoError(t, err)
	for _, name := range names {
		size, _, err := fs.Stat("store/" + name)
		require.NoError(t, err)
		if strings.HasSuffix(name, ".seg") {
			segments += int(size)
		} else if name != "STORE" && name != "LOCK" {
			all += int(size)
		}
	}
	require.NotZero(t, all)
	require.EqualValues(t, segments+all, c.Metrics().SpaceBytes)
	require.NoError(t, c.Close())
}
