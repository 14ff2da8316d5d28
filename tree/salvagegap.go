package tree

import (
	"maps"
	"slices"

	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/pagecache"
)

// usable returns the deltas that can be merged into the base, and whether that is
// all of them. Those of keys that the base is not for cannot. Behind a gap, where
// updates are missing, the keys may have been written and the leaf may have got
// other fences; see stretch.
func usable(base node, fragments []pagecache.SalvagedFragment) (deltas []pagecache.Fragment, whole bool) {
	var behind *stretch // nil: there was no gap
	whole = true
	for _, f := range fragments {
		if f.Gap {
			behind = &stretch{keys: map[string]bool{}}
		}
		d := delta(f.Data)
		switch {
		case d.validate() != nil || d.isInner():
			whole, behind = false, &stretch{keys: map[string]bool{}}
			continue
		case d.isErase() && testhooks.SalvageForgetErased.On():
			continue
		case d.isErase():
			if behind == nil {
				break
			}
			changes, all := behind.erase(d)
			if !all {
				whole = false
				f.Data = nil
				if changes = inBaseOf(base, changes); len(changes) > 0 {
					f.Data = appendRun(nil, kindLeafRun, changes)
				}
			}
		default:
			changes := make([]change, 0, d.count())
			for i := range d.count() {
				if c, _ := d.at(i); behind == nil || behind.counts(c) || testhooks.SalvageFoldAnyBase.On() {
					changes = append(changes, c)
				}
			}
			if changes = inBaseOf(base, changes); len(changes) < d.count() {
				whole = false
				f.Data = nil
				if len(changes) > 0 {
					f.Data = appendRun(nil, kindLeafRun, changes)
				}
			}
		}
		if f.Data != nil {
			deltas = append(deltas, f.Fragment)
		}
	}
	return deltas, whole
}

// inBaseOf returns the changes of keys that the base is for.
func inBaseOf(base node, changes []change) []change {
	return slices.DeleteFunc(changes, func(c change) bool { return !base.contains(c.key) })
}

// A stretch is what is known from the deltas behind a gap, up to the next one.
// Between them nothing is missing: neither writes of the leaf's keys nor, since
// other fences come with another base, a move of its fences. So
//
//   - an operand counts if the stretch has written its key, or erased it: what it
//     is to be folded onto is known. Otherwise it lies on what is missing;
//   - an erasure with both ends counts. One up to a fence counts for those keys
//     that the stretch has changes of: for others, the leaf that it erased may not
//     have been for them.
type stretch struct {
	keys   map[string]bool // that it has changes of; true: their values are known
	erased []erasure       // with both ends
}

// counts takes in a change, and reports whether it counts.
func (s *stretch) counts(c change) bool {
	known := c.flags&entryOperand == 0 || s.keys[string(c.key)] ||
		slices.ContainsFunc(s.erased, func(e erasure) bool { return e.covers(c.key) })
	s.keys[string(c.key)] = known
	return known
}

// erase takes in a valid erasure, and reports whether all of it counts; if not, it
// returns tombstones for the keys for which it does.
func (s *stretch) erase(d delta) (tombstones []change, all bool) {
	e, _ := decodeErase(d)
	if !e.loOpen && !e.hiOpen {
		s.erased = append(s.erased, e)
		return nil, true
	}
	for _, key := range slices.Sorted(maps.Keys(s.keys)) {
		if e.covers([]byte(key)) {
			s.keys[key] = true
			tombstones = append(tombstones, change{key: []byte(key), flags: entryTombstone})
		}
	}
	return tombstones, false
}
