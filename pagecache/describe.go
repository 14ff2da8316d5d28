package pagecache

import (
	"slices"

	"github.com/pulkdb/db/snapshot"
)

// collectAll adds every slot to w and the segments referred to to segments. It
// returns the highest PID handed out.
func (c *Cache) collectAll(w *snapshot.Writer, segments map[LSN]struct{}) (last PID, err error) {
	var slot snapshot.Slot
	for pid := PID(1); ; pid++ {
		if pid > last {
			if last = c.pids.max(); pid > last {
				return last, nil
			}
		}
		if err := c.collect(w, segments, pid, &slot); err != nil {
			return 0, err
		}
	}
}

// collectChanged is collectAll for the slots of pids.
func (c *Cache) collectChanged(w *snapshot.Writer, segments map[LSN]struct{}, pids *pidSet) (PID, error) {
	var slot snapshot.Slot
	for pid := range pids.all() {
		if err := c.collect(w, segments, pid, &slot); err != nil {
			return 0, err
		}
	}
	return c.pids.max(), nil
}

func (c *Cache) collect(w *snapshot.Writer, segments map[LSN]struct{}, pid PID, slot *snapshot.Slot) error {
	yield(yieldCheckpointSlot)
	if !c.describeSlot(pid, slot) {
		return nil
	}
	for _, p := range slot.Positions {
		segments[c.log.SegmentOf(p.LSN)] = struct{}{}
	}
	return w.Add(*slot)
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
