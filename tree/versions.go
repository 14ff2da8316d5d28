package tree

import (
	"slices"

	"github.com/pulkdb/db/internal/testhooks"
)

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

	fold folder // of operands
}

// A version is one of a key's.
type version struct {
	stamp uint64
	flags byte
	from  source
	index int // there
}

// A source is where a version comes from.
type source uint8

const (
	inBase    source = iota + 1 // an entry of the base
	inChanges                   // a change of a delta
	inMade                      // the merge has made it
)

// A madeVersion is a tombstone that stands for an erasure, or what operands were
// folded to or joined in.
type madeVersion struct {
	value []byte
	stamp uint64
	key   version // one of the same key that was not made
}

// makeVersion returns a new version of the group's key.
func (m *merger) makeVersion(stamp uint64, flags byte, value []byte) version {
	m.made = append(m.made, madeVersion{value, stamp, m.key})
	return version{stamp: stamp, flags: flags, from: inMade, index: len(m.made) - 1}
}

// valueOf is what the version says of the value.
func (m *merger) valueOf(v version) []byte {
	switch v.from {
	case inBase:
		return m.base.entry(v.index).value
	case inChanges:
		return m.changes[v.index].value
	}
	return m.made[v.index].value
}

// groupKey returns the key whose versions the group has. It is valid until the
// next call.
func (m *merger) groupKey() []byte {
	if m.key.from == inChanges {
		return m.changes[m.key.index].key
	}
	m.keyBuffer = m.base.appendKey(m.keyBuffer[:0], m.key.index)
	return m.keyBuffer
}

// suffixBytes is the length of the group's key without the prefix.
func (m *merger) suffixBytes() int {
	if m.key.from == inChanges {
		return len(m.changes[m.key.index].key) - m.prefix
	}
	return m.base.entry(m.key.index).suffixBytes
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

// keep returns the versions that stay, in place or in memory of the merger, newest
// first: the newest, and the newest that each open moment sees. A tombstone with
// nothing under it says nothing, for a base is the page's whole history.
func (m *merger) keep(group []version) []version {
	if m.rule.visible {
		return m.keepVisible(group)
	}
	if !m.rule.keepAll && hasOperand(group) {
		return m.keepFolded(group)
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
	return trimTombstones(kept)
}

func trimTombstones(kept []version) []version {
	for len(kept) > 0 && kept[len(kept)-1].flags&entryTombstone != 0 {
		kept = kept[:len(kept)-1]
	}
	return kept
}

func hasOperand(group []version) bool {
	for _, v := range group {
		if v.flags&entryOperand != 0 {
			return true
		}
	}
	return false
}

// seen reports whether an open moment sees a version with this stamp although
// there is a newer one.
func (m *merger) seen(stamp, newer uint64) bool {
	if newer == 0 || testhooks.DropNeededVersions.On() {
		return false
	}
	i, _ := slices.BinarySearch(m.rule.moments, newer)
	return i > 0 && m.rule.moments[i-1] >= stamp
}

// keepVisible returns what a reader at the moment sees: one version, or operands
// and what they lie on.
func (m *merger) keepVisible(group []version) []version {
	for i, v := range group {
		if v.stamp > m.rule.at {
			continue
		}
		end := i
		for end < len(group) && group[end].flags&entryOperand != 0 {
			end++
		}
		return trimTombstones(group[i:min(end+1, len(group))])
	}
	return nil
}

func (m *merger) drop(v version) {
	if m.rule.free != nil && v.flags&entryIndirect != 0 {
		m.rule.free(m.valueOf(v))
	}
}

// keepFolded is keep for a key that has operands. The versions that somebody needs
// divide the group into spans: each has one of those, the newest, and what is
// older up to the next of those. From the oldest span up, each becomes one version
// with the value as its newest version has it and with that one's stamp; or, from
// the first operand on that cannot be folded, that operand and those after it on
// what there is by then.
func (m *merger) keepFolded(group []version) []version {
	m.kept = m.kept[:0]
	below := ground{known: true}
	for end := len(group); end > 0; {
		start := end - 1
		for start > 0 && !m.seen(group[start].stamp, group[start-1].stamp) {
			start--
		}
		below = m.keepSpan(group[start:end], below)
		end = start
	}
	slices.Reverse(m.kept)
	return trimTombstones(m.kept)
}

// A ground is what operands lie on: a value, or nil for absence; or it is not
// known here, because it lies in chunks or is itself not folded.
type ground struct {
	known bool
	value []byte
}

func (m *merger) groundOf(v version) ground {
	switch {
	case v.flags&entryTombstone != 0:
		return ground{known: true}
	case v.flags&(entryIndirect|entryOperand) != 0:
		return ground{}
	}
	value := m.valueOf(v)
	if value == nil {
		value = []byte{}
	}
	return ground{known: true, value: value}
}

// keepSpan adds to m.kept, which is oldest first, what stays of a span, and
// returns the ground that it is for the next one.
func (m *merger) keepSpan(s []version, below ground) ground {
	full := 0 // the newest version that is no operand
	for full < len(s) && s[full].flags&entryOperand != 0 {
		full++
	}
	for i := len(s) - 1; i > full; i-- {
		if m.rule.keepIndirect && s[i].flags&entryIndirect != 0 {
			m.kept = append(m.kept, s[i])
		} else {
			m.drop(s[i])
		}
	}
	if full < len(s) {
		below = m.groundOf(s[full])
	}
	if full == 0 {
		m.kept = append(m.kept, s[0])
		return below
	}
	return m.foldSpan(s[:full], s[full:], below)
}

// foldSpan folds the operands, newest version first, onto the ground, which is
// that of the first of under, if there is one.
func (m *merger) foldSpan(operands, under []version, below ground) ground {
	list := m.joinOperands(operands)
	value, rest := below.value, list
	if below.known && m.rule.fold.merger != nil {
		value, rest, _ = m.rule.fold.fold(m.groupKey(), below.value, list)
	}
	flags := byte(0)
	if value == nil {
		flags = entryTombstone
	}
	switch {
	case len(rest) == 0:
		m.kept = append(m.kept, m.makeVersion(operands[0].stamp, flags, value))
		return ground{known: true, value: value}
	case len(rest) < len(list):
		m.kept = append(m.kept, m.makeVersion(m.stampWithin(operands, len(list)-len(rest)), flags, value))
	case len(under) > 0:
		m.kept = append(m.kept, under[0])
	}
	if len(rest) == len(list) && len(operands) == 1 {
		m.kept = append(m.kept, operands[0])
	} else {
		m.kept = append(m.kept, m.makeVersion(operands[0].stamp, entryOperand, rest))
	}
	return ground{}
}

// joinOperands returns the versions' operands as one list.
func (m *merger) joinOperands(operands []version) []byte {
	if len(operands) == 1 {
		return m.valueOf(operands[0])
	}
	size := 0
	for _, v := range operands {
		size += len(m.valueOf(v))
	}
	list := make([]byte, 0, size)
	for i := len(operands) - 1; i >= 0; i-- {
		list = append(list, m.valueOf(operands[i])...)
	}
	return list
}

// stampWithin returns the stamp of the version in which the joined list has its
// byte n-1.
func (m *merger) stampWithin(operands []version, n int) uint64 {
	for i := len(operands) - 1; i >= 0; i-- {
		v := operands[i]
		if n -= len(m.valueOf(v)); n <= 0 {
			return v.stamp
		}
	}
	return operands[0].stamp
}
