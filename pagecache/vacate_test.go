package pagecache

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// TestGroupUnderWayVacatesNothing: the early parts of a group are complete before its
// pages are published, so a segment of nothing else has no live bytes and is not vacated
// for all that. It was taken for it for good, so later page-table snapshots did not state
// that they refer to it, and it could be reused under them (P7).
func TestGroupUnderWayVacatesNothing(t *testing.T) {
	var c *Cache
	var armed atomic.Bool
	segment := LSN(0)
	hookYield(t, func(p yieldPoint) {
		if p != yieldUpdatePart || !armed.Load() {
			return
		}
		for _, s := range c.log.Segments() {
			if s.End != 0 && s.Live == 0 {
				armed.Store(false)
				segment = s.Base
				if err := c.writeCheckpoint(); err != nil {
					t.Error(err)
				}
				return
			}
		}
	})
	fs := vfs.NewMem()
	o := quiet(fs, stringPages{})
	o.SpaceTarget = 10_000 // the cleaner rests
	c = mustOpen(t, o)
	var other PID
	var key Key
	for range 100 {
		other, key = mustAllocate(t, c, strings.Repeat("x", 100))
	}
	armed.Store(true)
	u := c.Begin()
	want := map[PID]string{}
	for i := range 30 {
		page := strings.Repeat(fmt.Sprintf("%04d", i), 1500/4)
		pid, err := u.Allocate([]byte(page))
		require.NoError(t, err)
		want[pid] = page
	}
	_, err := u.Commit()
	require.NoError(t, err)
	require.NotZero(t, segment)

	for range 3 {
		key, err = c.Set(other, key, []byte("y"))
		require.NoError(t, err)
		require.NoError(t, c.writeCheckpoint())
	}
	// While the last one is committed what is in the segment is moved.
	c.clean.mu.Lock()
	require.NoError(t, c.cleanSegment(segment))
	c.clean.mu.Unlock()
	c.checkpoint.mu.Lock()
	_, err = c.recycleSegments()
	c.checkpoint.mu.Unlock()
	require.NoError(t, err)
	for range 3 * o.SegmentBytes / 1500 {
		key, err = c.Set(other, key, []byte(strings.Repeat("z", 1500)))
		require.NoError(t, err)
	}
	require.NoError(t, c.log.WaitDurable(log.Fresh, c.LogTail()))
	crashed := fs.CrashClone(0) // where it was moved to is lost
	require.NoError(t, c.Close())
	c = mustOpen(t, quiet(crashed, stringPages{}))
	for pid, page := range want {
		require.Equal(t, page, mustGet(t, c, pid))
	}
	require.NoError(t, c.Close())
}

// vacate empties the oldest segment.
func vacate(t *testing.T, c *Cache) {
	c.clean.mu.Lock()
	defer c.clean.mu.Unlock()
	require.NoError(t, c.cleanSegment(c.log.Segments()[0].Base))
}

func openRested(t *testing.T, fs vfs.FS) *Cache {
	o := quiet(fs, stringPages{})
	o.SpaceTarget = 10_000 // the cleaner rests
	c := mustOpen(t, o)
	for range 300 {
		mustAllocate(t, c, strings.Repeat("x", 150))
	}
	require.NoError(t, c.writeCheckpoint())
	return c
}

// TestNothingToGoIsNotFruitless: the cleaner may ask for segments that another snapshot
// has just let go. Then what it emptied next waited until a segment more was written, in
// a store that nobody writes to for ever.
func TestNothingToGoIsNotFruitless(t *testing.T) {
	c := openRested(t, vfs.NewMem())
	n, err := c.checkpointForSpace()
	require.NoError(t, err)
	require.Zero(t, n)
	vacate(t, c)
	n, err = c.checkpointForSpace()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, c.Close())
}

// TestSegmentsGoWhenTheGroupHasEnded: while a group is under way no snapshot lets segments
// go. When it has ended they must not wait until a segment more was written.
func TestSegmentsGoWhenTheGroupHasEnded(t *testing.T) {
	var c *Cache
	var armed atomic.Bool
	hookYield(t, func(p yieldPoint) {
		if p != yieldUpdatePart || !armed.Swap(false) {
			return
		}
		for range 2 {
			if n, err := c.checkpointForSpace(); n != 0 || err != nil {
				t.Error(n, err)
			}
		}
		if c.checkpoint.fruitless == 0 {
			t.Error("nothing was tried")
		}
	})
	c = openRested(t, vfs.NewMem())
	vacate(t, c)
	armed.Store(true)
	u := c.Begin()
	for range 2 {
		_, err := u.Allocate([]byte(strings.Repeat("y", 1500)))
		require.NoError(t, err)
	}
	_, err := u.Commit()
	require.NoError(t, err)
	require.Less(t, c.LogTail(), c.checkpoint.fruitless)
	c.checkpoint.fruitlessAt = time.Time{}
	n, err := c.checkpointForSpace()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, c.Close())
}

// TestSnapshotsThatFailAreRare: what keeps a page-table snapshot from being written, such
// as a full disk, may last, and then it was tried 250 times a second. When it has passed,
// snapshots are written again.
func TestSnapshotsThatFailAreRare(t *testing.T) {
	full := errors.New("no space")
	var failing switchable
	var tries atomic.Int32
	c := openRested(t, vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if failing.on() && op.Kind == vfs.OpOpen && !strings.HasSuffix(op.Name, ".seg") {
			tries.Add(1)
			return full
		}
		return nil
	}))
	vacate(t, c)
	failing.set()
	_, err := c.checkpointForSpace()
	require.ErrorIs(t, err, full)
	for range 10 {
		_, err := c.checkpointForSpace()
		require.NoError(t, err)
		require.NoError(t, c.writeCheckpointIfDue())
	}
	require.EqualValues(t, 1, tries.Load())
	c.checkpoint.failedAt = time.Time{}
	require.ErrorIs(t, c.writeCheckpointIfDue(), full)
	require.EqualValues(t, 2, tries.Load())
	failing.flag.Store(false)
	c.checkpoint.failedAt = time.Time{}
	n, err := c.checkpointForSpace()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.NoError(t, c.Close())
}
