package tree

import (
	"time"

	"github.com/pulkdb/db/pagecache"
)

// A Moment is an open read snapshot: reads that are given it see what was written
// up to it, and go on seeing that whatever is written later. It costs the versions
// that it keeps. Its methods may be called by many goroutines; Close it once, when
// none uses it any more.
type Moment struct {
	t      *Tree
	moment pagecache.Moment
}

// OpenMoment opens a read snapshot as of now. It takes no lock. The linearization
// point is the tick of the page cache's clock.
func (t *Tree) OpenMoment() *Moment {
	m := t.openMoment()
	return &m
}

func (t *Tree) openMoment() Moment { return Moment{t, t.cache.OpenMoment()} }

// reopen registers another moment at the same stamp, which outlives m.
func (m *Moment) reopen() Moment { return Moment{m.t, m.moment.Reopen()} }

// Stamp is the newest stamp that the moment sees.
func (m *Moment) Stamp() uint64 { return m.moment.Stamp() }

// Opened is when the moment was opened.
func (m *Moment) Opened() time.Time { return m.moment.Opened() }

// Close gives the moment up and schedules the dropping of what only it kept.
func (m *Moment) Close() {
	m.moment.Close()
	m.t.shrinker.momentClosed()
}

// GetAt is GetTo as of the moment.
func (t *Tree) GetAt(m *Moment, dst, key []byte) ([]byte, error) {
	return t.getAt(m.Stamp(), dst, key)
}

// HasAt is Has as of the moment.
func (t *Tree) HasAt(m *Moment, key []byte) (bool, error) { return t.hasAt(m.Stamp(), key) }

// ScanAt is Scan as of the moment. The iterator may be used after m is closed.
func (t *Tree) ScanAt(m *Moment, lo, hi []byte) *Iterator {
	it := t.newIterator(lo, hi)
	if !it.closed {
		it.moment = m.reopen()
	}
	return it
}
