package pagecache

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pulkdb/db/internal/paths"
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
// It holds the slots that changed since the one before it, which it builds on
// (see pidSet), or it is a base and holds all. So that few files make up a
// snapshot, and reading them costs little more than reading a base, it takes in
// the newest files with at most mergeRatio times as many slots as itself, and
// reads their slots anew: each file then has more than mergeRatio times the slots
// of the next, which bounds their number by the logarithm of that of the slots.
// A slot is written again when a snapshot takes in its file, which makes the file
// it stands in larger by half or more; so, per change, it is written at most
// 1 + log(slots/changed) to the base 1.5 times, changed being what one snapshot
// finds changed.
//
// Memory: a bit per slot of the mapping table for what changed, and another for each
// difference.
type checkpointer struct {
	mu       sync.Mutex      // one at a time
	sequence uint64          // Guarded by mu. The highest that a file has or had.
	chain    []chainFile     // Guarded by mu. What the newest snapshot is composed of, base first.
	history  []snapshotFacts // Guarded by mu. Of the newest snapshots, newest last.

	// Guarded by mu. Segments that nothing in the table refers to, and where the
	// log ended when that was seen. See noteVacated.
	vacated map[LSN]log.Marks

	// Guarded by mu. See checkpointForSpace.
	fruitless   LSN
	heldBack    log.Marks
	fruitlessAt time.Time
	failedAt    time.Time // Guarded by mu. The last failure.

	last  atomic.Uint64 // LSN: replay start of the newest snapshot
	bytes atomic.Int64  // of the files that the newest snapshot is composed of
}

// A chainFile is a file of the newest snapshot.
type chainFile struct {
	snapshot.File
	pids *pidSet // whose slots it holds; nil: a base, which holds all
}

// snapshotFacts are what must be kept for a snapshot.
type snapshotFacts struct {
	replayStart log.Marks
	segments    map[LSN]struct{} // bases of the segments it may refer to
	files       []uint64         // sequences of the files it is composed of
}

const (
	checkpointPoll  = 20 * time.Millisecond
	snapshotsToKeep = 2
	mergeRatio      = 2
	fruitlessPause  = time.Second
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
		if err := c.writeCheckpointIfDue(); err != nil {
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

// writeCheckpoint writes a page-table snapshot, removes files that are not needed
// any more and gives segments back.
func (c *Cache) writeCheckpoint() error {
	lock(&c.checkpoint.mu)
	defer c.checkpoint.mu.Unlock()
	_, err := c.writeCheckpointLocked()
	return err
}

// writeCheckpointIfDue is writeCheckpoint, but soon after a failure it does nothing: what
// failed may last, as a full disk does, and trying takes time and space.
func (c *Cache) writeCheckpointIfDue() error {
	k := &c.checkpoint
	lock(&k.mu)
	defer k.mu.Unlock()
	if k.failedLately() {
		return nil
	}
	_, err := c.writeCheckpointLocked()
	return err
}

func (k *checkpointer) failedLately() bool { return time.Since(k.failedAt) < fruitlessPause }

// checkpointForSpace writes the snapshots that it takes until segments without
// live data can go: two, of which the second holds next to nothing. It reports
// how many segments went. If that was none, since records or a group under way hold
// the replay start back, it does nothing until a segment more was written, or they have
// let go and fruitlessPause has passed. Nor does it do anything soon after a failure.
func (c *Cache) checkpointForSpace() (recycled int, err error) {
	k := &c.checkpoint
	lock(&k.mu)
	defer k.mu.Unlock()
	if k.failedLately() {
		return 0, nil
	}
	if c.log.Tail(log.Fresh) < k.fruitless && (time.Since(k.fruitlessAt) < fruitlessPause || !notBelow(c.log.ReplayStart(), k.heldBack)) {
		return 0, nil
	}
	for range snapshotsToKeep {
		if !c.anyVacant() {
			return recycled, nil // another snapshot has let them go
		}
		n, err := c.writeCheckpointLocked()
		if recycled += n; err != nil {
			return recycled, err
		}
	}
	if recycled == 0 {
		tails := log.Marks{c.log.Tail(log.Fresh), c.log.Tail(log.Survivors)}
		k.fruitless, k.heldBack, k.fruitlessAt = tails[log.Fresh]+LSN(c.log.SegmentBytes()), tails, time.Now()
	}
	return recycled, nil
}

func (c *Cache) writeCheckpointLocked() (recycled int, err error) {
	k := &c.checkpoint
	c.metrics.snapshotting.Store(true)
	defer c.metrics.snapshotting.Store(false)
	began := time.Now()
	defer func() {
		if err != nil {
			k.failedAt = time.Now()
		}
	}()
	start := c.replayStartBehind(c.noteVacated())
	taken := c.written.take()
	base := k.takeIn(taken)
	id := snapshot.Identity{StoreID: c.log.StoreID(), Incarnation: c.log.Incarnation(), Sequence: k.sequence + 1}
	if base > 0 {
		id.Parent = k.chain[base-1].Link
	}
	h := snapshot.Header{Identity: id, ReplayStart: start}
	w, err := snapshot.Create(c.options.FS, c.options.Dir, id)
	if err != nil {
		c.written.add(taken)
		return 0, err
	}
	defer func() {
		c.metrics.snapshotBytes.Add(uint64(w.Bytes()))
		if err != nil {
			w.Discard()
		}
	}()
	facts, err := c.fillSnapshot(w, &h, taken)
	if err != nil {
		c.written.add(taken)
		return 0, err
	}
	f := chainFile{File: w.File()}
	if base > 0 {
		f.pids = taken
		paths.Hit(paths.SnapshotDifference)
	}
	if base > 0 && base < len(k.chain) {
		paths.Hit(paths.SnapshotMerge)
	}
	k.sequence = h.Sequence
	k.chain = append(slices.Clone(k.chain[:base]), f)
	fileBytes := int64(0)
	for _, f := range k.chain {
		facts.files = append(facts.files, f.Sequence)
		fileBytes += f.Bytes
	}
	k.bytes.Store(fileBytes)
	k.last.Store(uint64(h.ReplayStart[log.Fresh]))
	k.history = append(k.history, facts)
	k.history = slices.Clone(k.history[max(0, len(k.history)-snapshotsToKeep):])
	c.metrics.snapshots.Add(1)
	c.metrics.snapshotTime.Add(uint64(time.Since(began)))
	if err := snapshot.RemoveOthers(c.options.FS, c.options.Dir, k.filesToKeep()); err != nil {
		return 0, err
	}
	return c.recycleSegments()
}

// takeIn decides which files of the newest snapshot the next one does without: it
// returns how many it builds on, and adds to pids what the others hold.
func (k *checkpointer) takeIn(pids *pidSet) (base int) {
	base = len(k.chain)
	for count := pids.count(); base > 0; base-- {
		f := k.chain[base-1]
		if f.Slots > mergeRatio*count && f.Slots > 0 {
			break
		}
		if f.pids != nil {
			pids.add(f.pids)
			count = pids.count()
		}
	}
	return base
}

// fillSnapshot adds the slots of pids to w, or all if it has no parent, completes
// h, and commits.
func (c *Cache) fillSnapshot(w *snapshot.Writer, h *snapshot.Header, pids *pidSet) (snapshotFacts, error) {
	facts := snapshotFacts{replayStart: h.ReplayStart, segments: make(map[LSN]struct{})}
	var err error
	if h.Parent == (snapshot.Link{}) {
		h.MaxPID, err = c.collectAll(w, facts.segments)
	} else {
		h.MaxPID, err = c.collectChanged(w, facts.segments, pids)
		c.checkpoint.inheritSegments(&facts)
	}
	if err != nil {
		return facts, err
	}
	h.Clock = c.clock.Load()
	for _, r := range c.recovery.all() {
		h.Recovery = append(h.Recovery, snapshot.Recovery(r))
	}
	if c.log.Tail(log.Fresh) > h.ReplayStart[log.Fresh] {
		paths.Hit(paths.SnapshotWhileWriting)
	}
	if err := c.log.Sync(); err != nil {
		return facts, err
	}
	h.DurableMark = c.log.DurableMarks()
	if h.Segments, err = c.segmentRefs(facts.segments); err != nil {
		return facts, err
	}
	return facts, w.Commit(*h)
}

func (k *checkpointer) filesToKeep() (sequences []uint64) {
	for _, f := range k.history {
		sequences = append(sequences, f.files...)
	}
	return sequences
}

// noteLogged books the update at p, which has just been published: before its
// record is complete, as live and as a change of the page's slot (see pidSet).
func (c *Cache) noteLogged(pid PID, p log.Position) {
	c.log.Account(p, true)
	if !c.options.InMemory {
		yield(yieldWritten)
		c.written.set(pid)
	}
}
