package pagecache

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/log"
	"github.com/pulkdb/db/snapshot"
)

// Segments go back to the log when nothing live is in them, they lie below the
// replay start of the two newest snapshots, and neither may refer to them (P7).
//
// A base refers to the segments of the slots it holds. For a difference nobody
// looks at all slots; it may refer to what its own slots do and to what the
// snapshot it builds on may, less the vacated segments. A segment counts as
// vacated for a snapshot when three things came in this order:
//
//  1. all of its records were complete, and all the groups that these belong to;
//  2. it was seen without live bytes. Bytes are booked as live before their record
//     is complete, or the last part of their group, and given up only after the slot
//     has changed; so no slot referred to the segment then, and none ever will,
//     since it is closed;
//  3. the snapshot fixed a replay start not below where the log ended at 2. So
//     the records of all changes that took references away until then were
//     complete, their PIDs were in the set, and this snapshot or one it builds
//     on read them later (see pidSet).

// noteVacated notes the segments that have become vacated, and returns where the
// log ends: a snapshot that starts replay there, or behind, does not refer to
// them.
//
// REQUIRES: the caller holds checkpoint.mu.
func (c *Cache) noteVacated() (tails log.Marks) {
	k := &c.checkpoint
	complete := c.log.ReplayStart() // and not the completed prefix: there are groups under way
	segments := c.log.Segments()
	tails = log.Marks{c.log.Tail(log.Fresh), c.log.Tail(log.Survivors)}
	there := make(map[LSN]log.Marks, len(k.vacated))
	for _, s := range segments {
		if at, ok := k.vacated[s.Base]; ok {
			there[s.Base] = at
		} else if s.End != 0 && s.End <= complete[s.Stream] && s.Live == 0 {
			there[s.Base] = tails
		}
	}
	k.vacated = there
	return tails
}

// vacateTries bounds how long a snapshot waits for records under way, some ten
// milliseconds. If that was not enough, vacated segments wait for the next.
const vacateTries = 150

// replayStartBehind returns a replay start, not below tails if it can be had soon.
func (c *Cache) replayStartBehind(tails log.Marks) log.Marks {
	for try := 0; ; try++ {
		start := c.log.ReplayStart()
		if try == vacateTries || notBelow(start, tails) {
			return start
		}
		pause(try)
	}
}

func notBelow(a, b log.Marks) bool {
	return a[log.Fresh] >= b[log.Fresh] && a[log.Survivors] >= b[log.Survivors]
}

// inheritSegments adds to a difference's segments those of the snapshot before it.
func (k *checkpointer) inheritSegments(facts *snapshotFacts) {
	for base := range k.history[len(k.history)-1].segments {
		if at, ok := k.vacated[base]; !ok || !notBelow(facts.replayStart, at) {
			facts.segments[base] = struct{}{}
		}
	}
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

// anyVacant reports whether there are closed segments without live data.
func (c *Cache) anyVacant() bool {
	return slices.ContainsFunc(c.log.Segments(), func(s log.SegmentInfo) bool { return s.End != 0 && s.Live == 0 })
}

// recycleSegments gives back every segment that neither the store nor the two
// newest snapshots need, and returns how many.
func (c *Cache) recycleSegments() (n int, err error) {
	k := &c.checkpoint
	if len(k.history) < snapshotsToKeep {
		return 0, nil
	}
	for _, s := range c.log.Segments() {
		if s.End == 0 || s.Live != 0 || k.needed(s) && !testhooks.ReuseSegmentEarly.On() {
			continue
		}
		if err := c.log.Recycle(s.Base); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (k *checkpointer) needed(s log.SegmentInfo) bool {
	for _, f := range k.history {
		if _, ok := f.segments[s.Base]; ok || s.End > f.replayStart[s.Stream] {
			return true
		}
	}
	return false
}
