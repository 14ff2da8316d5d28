package pagecache

import (
	"slices"
	"sync/atomic"
	"unsafe"
)

// moments is the set of open read snapshots. An entry is in one of these states:
//
//	0              free
//	momentOpening  taken; its moment is not known yet: no version may be dropped
//	moment         open
//
// OpenMoment registers the entry as momentOpening before it ticks the clock, and
// narrows it to its moment afterwards. Consolidation reads the page's head before
// it reads the set (View.Merging). So for a snapshot S and a consolidation C:
// if C sees S's entry, it keeps what S needs; if it does not, S took its moment
// after C read the head, so S sees the newest version in that head, which C
// keeps. The linearization point of OpenMoment is its tick.
type moments struct {
	first momentChunk

	open   atomic.Int64
	opened atomic.Uint64
}

const (
	momentOpening   = ^uint64(0)
	momentsPerChunk = 64
)

type momentChunk struct {
	entries [momentsPerChunk]atomic.Uint64
	next    atomic.Pointer[momentChunk]
}

// A Moment is an open read snapshot: what it sees are the versions with stamps
// up to Stamp. It keeps those versions from being dropped until it is closed.
type Moment struct {
	entry *atomic.Uint64
	set   *moments
	stamp uint64
}

// Stamp is the newest stamp that the moment sees.
func (m Moment) Stamp() uint64 { return m.stamp }

// Close gives the moment up. It is called once.
func (m Moment) Close() {
	m.entry.Store(0)
	m.set.open.Add(-1)
}

// OpenMoment opens a read snapshot of all pages as of now. It takes no lock.
func (c *Cache) OpenMoment() Moment {
	entry := c.moments.register()
	stamp := c.clock.Add(1) - 1
	entry.Store(stamp)
	c.moments.open.Add(1)
	c.moments.opened.Add(1)
	return Moment{entry: entry, set: &c.moments, stamp: stamp}
}

func (s *moments) register() *atomic.Uint64 {
	var local byte
	start := int(uintptr(unsafe.Pointer(&local))>>9) % momentsPerChunk
	for chunk := &s.first; ; chunk = chunk.next.Load() {
		for i := range momentsPerChunk {
			e := &chunk.entries[(start+i)%momentsPerChunk]
			if e.Load() == 0 && e.CompareAndSwap(0, momentOpening) {
				return e
			}
		}
		if chunk.next.Load() == nil {
			chunk.next.CompareAndSwap(nil, new(momentChunk))
		}
	}
}

// collect fills in m's Clock, Moments and KeepAll.
func (s *moments) collect(m *Merging, clock *atomic.Uint64) {
	m.Clock = clock.Load()
	for chunk := &s.first; chunk != nil; chunk = chunk.next.Load() {
		for i := range chunk.entries {
			switch v := chunk.entries[i].Load(); v {
			case 0:
			case momentOpening:
				m.KeepAll = true
			default:
				m.Moments = append(m.Moments, v)
			}
		}
	}
	slices.Sort(m.Moments)
}

// any reports whether a read snapshot is open or being opened.
func (s *moments) any() bool {
	for chunk := &s.first; chunk != nil; chunk = chunk.next.Load() {
		for i := range chunk.entries {
			if chunk.entries[i].Load() != 0 {
				return true
			}
		}
	}
	return false
}

// Reopen registers another moment at the same stamp, while m is open.
func (m Moment) Reopen() Moment {
	entry := m.set.register()
	// It may say momentOpening for an instant, and then what m says: nobody drops
	// what it needs.
	entry.Store(m.stamp)
	m.set.open.Add(1)
	return Moment{entry: entry, set: m.set, stamp: m.stamp}
}
