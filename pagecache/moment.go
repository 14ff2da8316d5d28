package pagecache

import (
	"slices"
	"sync/atomic"
	"time"
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
	entries [momentsPerChunk]momentEntry
	next    atomic.Pointer[momentChunk]
}

// A momentEntry holds a state and, for metrics, when the moment was opened, in
// nanoseconds since processStart.
type momentEntry struct {
	state  atomic.Uint64
	opened atomic.Int64
}

// processStart is what monotonic times are measured from.
var processStart = time.Now()

// A Moment is an open read snapshot: what it sees are the versions with stamps
// up to Stamp. It keeps those versions from being dropped until it is closed.
type Moment struct {
	entry  *momentEntry
	set    *moments
	stamp  uint64
	opened time.Duration // since processStart
}

// Stamp is the newest stamp that the moment sees.
func (m Moment) Stamp() uint64 { return m.stamp }

// Opened is when the moment, or the one that it was reopened from, was opened.
func (m Moment) Opened() time.Time { return processStart.Add(m.opened) }

// Close gives the moment up. It is called once.
func (m Moment) Close() {
	m.entry.state.Store(0)
	m.set.open.Add(-1)
}

// OpenMoment opens a read snapshot of all pages as of now. It takes no lock.
func (c *Cache) OpenMoment() Moment {
	entry := c.moments.register()
	m := Moment{entry: entry, set: &c.moments, opened: time.Since(processStart)}
	entry.opened.Store(int64(m.opened))
	m.stamp = c.clock.Add(1) - 1
	entry.state.Store(m.stamp)
	c.moments.open.Add(1)
	c.moments.opened.Add(1)
	return m
}

// Clock is the stamp that a version published now would get. Moments opened from
// now on see every version that has a stamp by now.
func (c *Cache) Clock() uint64 { return c.clock.Load() }

// OldestMoment returns the stamp of the oldest open moment and its age, or the
// clock and 0 if none is open. Like a merge it counts a moment that is being
// opened as one that needs everything: then the stamp is 0.
func (c *Cache) OldestMoment() (stamp uint64, age time.Duration) {
	// The clock first: a moment that is missed below is at least this (see moments).
	stamp = c.clock.Load()
	oldest := int64(-1)
	for chunk := &c.moments.first; chunk != nil; chunk = chunk.next.Load() {
		for i := range chunk.entries {
			e := &chunk.entries[i]
			switch v := e.state.Load(); v {
			case 0:
				continue
			case momentOpening:
				stamp = 0
			default:
				stamp = min(stamp, v)
				if at := e.opened.Load(); oldest < 0 || at < oldest {
					oldest = at
				}
			}
		}
	}
	if oldest >= 0 {
		age = max(time.Since(processStart)-time.Duration(oldest), 0)
	}
	return stamp, age
}

func (s *moments) register() *momentEntry {
	var local byte
	start := int(uintptr(unsafe.Pointer(&local))>>9) % momentsPerChunk
	for chunk := &s.first; ; chunk = chunk.next.Load() {
		for i := range momentsPerChunk {
			e := &chunk.entries[(start+i)%momentsPerChunk]
			if e.state.Load() == 0 && e.state.CompareAndSwap(0, momentOpening) {
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
			switch v := chunk.entries[i].state.Load(); v {
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
			if chunk.entries[i].state.Load() != 0 {
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
	entry.opened.Store(int64(m.opened))
	entry.state.Store(m.stamp)
	m.set.open.Add(1)
	return Moment{entry: entry, set: m.set, stamp: m.stamp, opened: m.opened}
}

// RaiseClock sees to it that versions published from now on have stamps above the given
// one.
func (c *Cache) RaiseClock(stamp uint64) {
	for now := c.clock.Load(); now <= stamp; now = c.clock.Load() {
		c.clock.CompareAndSwap(now, stamp+1)
	}
}

// RecoveredClock is what the clock was when the cache was opened: above the stamps of all
// that was in it then.
func (c *Cache) RecoveredClock() uint64 { return c.opened.clock }

// StoreID is the store's, given when it was made.
func (c *Cache) StoreID() [16]byte { return c.log.StoreID() }
