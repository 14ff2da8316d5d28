package tree

import "slices"

// A rule says which versions of a key a merge keeps.
type rule struct {
	moments []uint64 // of open read snapshots, ascending
	keepAll bool     // a read snapshot is opening: every version stays, with its stamp

	// visible: only what a reader at the moment at sees, without stamps.
	visible bool
	at      uint64

	// keepIndirect: versions that name chunks stay even if nobody sees them, because
	// the caller cannot free the chunks. Harmless: a newer version hides them.
	keepIndirect bool
	// free is told the value of each dropped version that names chunks, unless nil.
	free func(value []byte)
}

// A version is one of a key's, in base or in a delta.
type version struct {
	stamp uint64
	flags byte
	base  bool
	index int
}

// needsStamp reports whether some reader may not see a version with this stamp.
// Read snapshots opened from now on see it: their moments are at least the clock
// (T4).
func (m *merger) needsStamp(stamp uint64) bool {
	if stamp == 0 {
		return false
	}
	return m.rule.keepAll || len(m.rule.moments) > 0 && stamp > m.rule.moments[0]
}

// keep returns the versions that stay, in place, newest first: the newest, and
// the newest that each open moment sees. A tombstone with nothing under it says
// nothing, for a base is the page's whole history.
func (m *merger) keep(group []version) []version {
	if m.rule.visible {
		return m.keepVisible(group)
	}
	kept := group[:0]
	for i, v := range group {
		if i > 0 && !m.rule.keepAll && !m.seen(v.stamp, group[i-1].stamp) {
			if v.flags&entryIndirect == 0 {
				continue
			}
			if !m.rule.keepIndirect {
				m.drop(v)
				continue
			}
		}
		kept = append(kept, v)
	}
	for len(kept) > 0 && kept[len(kept)-1].flags&entryTombstone != 0 {
		kept = kept[:len(kept)-1]
	}
	return kept
}

// seen reports whether an open moment sees a version with this stamp although
// there is a newer one.
func (m *merger) seen(stamp, newer uint64) bool {
	if newer == 0 {
		return false
	}
	i, _ := slices.BinarySearch(m.rule.moments, newer)
	return i > 0 && m.rule.moments[i-1] >= stamp
}

func (m *merger) keepVisible(group []version) []version {
	for i, v := range group {
		if v.stamp > m.rule.at {
			continue
		}
		if v.flags&entryTombstone != 0 {
			return nil
		}
		return group[i : i+1]
	}
	return nil
}

func (m *merger) drop(v version) {
	if m.rule.free == nil {
		return
	}
	if v.base {
		m.rule.free(m.base.entry(v.index).value)
	} else {
		m.rule.free(m.changes[v.index].value)
	}
}
