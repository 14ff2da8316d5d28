package pagecache

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// The checkpointer writes page-table snapshots in the background, so that an
// Open reads one and a short piece of log.
//
// A page-table snapshot is right although pages change while it is written:
//   - the replay start is fixed before the first slot is read, and lies below
//     every reservation that was not complete then, moved back to the first part
//     of any unfinished group. So an update is in its page's slot when the slot is
//     read, or its record is replayed, or both;
//   - a slot states its page version, and replay applies an update by page
//     version, once (P4);
//   - a slot whose writer bit is set is waited for: its Update may still fail;
//   - the snapshot becomes valid, by its rename, only when all of the log up to
//     the end of the collection is durable, so every position in it is.
//
// Segments go back to the log when nothing live is in them, they lie below the
// replay start of the two newest snapshots, and neither refers to them (P7).
type checkpointer struct {
	mu       sync.Mutex // one at a time
	sequence uint64     // Guarded by mu. Of the newest snapshot.
	history  []snapshotFacts

	last atomic.Uint64 // LSN: replay start of the newest snapshot
}

// snapshotFacts are what reuse of segments needs to know of a snapshot.
type snapshotFacts struct {
	replayStart log.Marks
	segments    map[LSN]struct{} // bases of the segments it refers to
}

const (
	checkpointPoll  = 20 * time.Millisecond
	snapshotsToKeep = 2
)

// runCheckpointer is the checkpointer's goroutine.
func (c *Cache) runCheckpointer() {
	defer c.background.Done()
	tick := time.NewTicker(checkpointPoll)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		c.epochs.TryAdvance()
		c.dropBorrowed()
		if int64(c.log.Tail(log.Fresh))-int64(c.checkpoint.last.Load()) < c.options.SnapshotBytes {
			continue
		}
		if err := c.writeCheckpoint(); err != nil {
			if errors.Is(err, errStopped) || errors.Is(err, ErrClosed) {
				return
			}
			c.options.Logger.Error("pagecache: page-table snapshot failed", "error", err)
			if c.log.Err() != nil {
				return
			}
		}
	}
}

var errStopped = errors.New("pagecache: stopped")

// writeCheckpoint writes a page-table snapshot, removes older ones and gives
// segments back.
func (c *Cache) writeCheckpoint() (err error) {
	k := &c.checkpoint
	lock(&k.mu)
	defer k.mu.Unlock()
	c.metrics.snapshotting.Store(true)
	defer c.metrics.snapshotting.Store(false)
	began := time.Now()
	id := snapshot.Identity{StoreID: c.log.StoreID(), Incarnation: c.log.Incarnation(), Sequence: k.sequence + 1}
	h := snapshot.Header{Identity: id, ReplayStart: c.log.ReplayStart()}
	w, err := snapshot.Create(c.options.FS, c.options.Dir, id)
	if err != nil {
		return err
	}
	defer func() {
		c.metrics.snapshotBytes.Add(uint64(w.Bytes()))
		if err != nil {
			w.Discard()
		}
	}()
	facts := snapshotFacts{replayStart: h.ReplayStart, segments: make(map[LSN]struct{})}
	last, err := c.collectSlots(w, facts.segments)
	if err != nil {
		return err
	}
	h.MaxPID = last
	h.Clock = c.clock.Load()
	for _, r := range c.recovery.all() {
		h.Recovery = append(h.Recovery, snapshot.Recovery(r))
	}
	if c.log.Tail(log.Fresh) > h.ReplayStart[log.Fresh] {
		paths.Hit(paths.SnapshotWhileWriting)
	}
	if err = c.log.Sync(); err != nil {
		return err
	}
	h.DurableMark = c.log.DurableMarks()
	if h.Segments, err = c.segmentRefs(facts.segments); err != nil {
		return err
	}
	if err = w.Commit(h); err != nil {
		return err
	}
	k.sequence = h.Sequence
	c.checkpoint.last.Store(uint64(h.ReplayStart[log.Fresh]))
	k.history = append(k.history, facts)
	c.metrics.snapshots.Add(1)
	c.metrics.snapshotTime.Add(uint64(time.Since(began)))
	if err := snapshot.RemoveOlder(c.options.FS, c.options.Dir, snapshotsToKeep); err != nil {
		return err
	}
	return c.recycleSegments()
}

// collectSlots adds every slot to w and the segments referred to to segments.
func (c *Cache) collectSlots(w *snapshot.Writer, segments map[LSN]struct{}) (last PID, err error) {
	var slot snapshot.Slot
	for pid := PID(1); ; pid++ {
		if pid > last {
			if last = c.pids.max(); pid > last {
				return last, nil
			}
		}
		yield(yieldCheckpointSlot)
		if !c.describeSlot(pid, &slot) {
			continue
		}
		for _, p := range slot.Positions {
			segments[c.log.SegmentOf(p.LSN)] = struct{}{}
		}
		if err := w.Add(slot); err != nil {
			return 0, err
		}
	}
}

// describeSlot fills in s. It reports false for a PID that was never used.
func (c *Cache) describeSlot(pid PID, s *snapshot.Slot) bool {
	slot := c.table.slot(pid)
	if slot == nil {
		return false // handed out, and the table does not reach that far yet
	}
	for {
		g := c.Pin()
		word := slot.Load()
		if word&slotWriter == 0 || c.isFree(word) {
			ok := c.describeWord(pid, word, s)
			g.Unpin()
			return ok
		}
		g.Unpin()
		spin()
	}
}

// isFree reports whether the slot's PID is free: one with the writer bit has been
// handed out, and nothing of it is installed.
func (c *Cache) isFree(word uint64) bool {
	return word&slotRefMask == 0 || c.headerAt(word).kind == nodeFree
}

func (c *Cache) describeWord(pid PID, word uint64, s *snapshot.Slot) bool {
	*s = snapshot.Slot{PID: pid, State: snapshot.Used, Positions: s.Positions[:0]}
	if word&slotRefMask == 0 {
		return false
	}
	if c.headerAt(word).kind == nodeFree {
		f := c.freeAt(word)
		s.State, s.Version = snapshot.Free, f.version
		if p := f.position(); !p.IsZero() {
			s.Positions = append(s.Positions, p)
		}
		return true
	}
	b := c.bottomOf(word)
	s.Version = c.versionAt(word)
	s.Stamp = b.stamp
	s.Flags = b.flags & nodeKeep
	s.Positions = b.appendPositions(s.Positions)
	if c.headerAt(word).kind != nodeDelta {
		return true
	}
	older := len(s.Positions)
	for d := c.deltaAt(word); d != nil; d = c.olderDelta(d) {
		stamp, _ := c.stampOf(d)
		s.Stamp = max(s.Stamp, stamp)
		s.Positions = append(s.Positions, d.position())
	}
	slices.Reverse(s.Positions[older:])
	return true
}

// segmentRefs turns the bases of segments into references.
func (c *Cache) segmentRefs(bases map[LSN]struct{}) ([]snapshot.SegmentRef, error) {
	incarnations := make(map[LSN]uint64)
	for _, s := range c.log.Segments() {
		incarnations[s.Base] = s.Incarnation
	}
	refs := make([]snapshot.SegmentRef, 0, len(bases))
	for _, base := range slices.Sorted(maps.Keys(bases)) {
		n, ok := incarnations[base]
		if !ok {
			return nil, fmt.Errorf("pagecache: a page refers to segment %v, which the log does not have", base)
		}
		refs = append(refs, snapshot.SegmentRef{Base: base, Incarnation: n})
	}
	return refs, nil
}

// recycleSegments gives back every segment that neither the store nor the two
// newest snapshots need.
func (c *Cache) recycleSegments() error {
	k := &c.checkpoint
	if len(k.history) > snapshotsToKeep {
		k.history = slices.Clone(k.history[len(k.history)-snapshotsToKeep:])
	}
	if len(k.history) < snapshotsToKeep {
		return nil
	}
	for _, s := range c.log.Segments() {
		if s.End == 0 || s.Live != 0 || k.needed(s) && !testhooks.ReuseSegmentEarly.On() {
			continue
		}
		if err := c.log.Recycle(s.Base); err != nil {
			return err
		}
	}
	return nil
}

func (k *checkpointer) needed(s log.SegmentInfo) bool {
	for _, f := range k.history {
		if _, ok := f.segments[s.Base]; ok || s.End > f.replayStart[s.Stream] {
			return true
		}
	}
	return false
}
