package db

import (
	"sync/atomic"

	"github.com/pulkdb/db/tree"
)

// A Snapshot is a frozen view of the store: what it reads is the store as it
// stood when DB.Snapshot was called, whatever is written meanwhile. Opening one
// costs next to nothing and holds nobody up; while it is open, the store keeps
// the versions that it can see, so it must be closed.
//
// Its methods may be called from many goroutines at once. After its Close, or
// the store's, they fail with ErrClosed. (The snapshots of the page table, on
// disk, are another matter: they make Open fast.)
type Snapshot struct {
	// Immutable. moment is nil if the store was closed.
	db     *DB
	moment *tree.Moment

	// Atomic. It is set before the moment is closed. So a read that finds it
	// false when it has read did so at an open moment.
	closed atomic.Bool
}

// Snapshot returns a view of the store as it is now. It is never nil; that of a
// closed store answers with ErrClosed.
func (d *DB) Snapshot() *Snapshot {
	s := &Snapshot{db: d}
	if !d.closed.Load() {
		s.moment = d.tree.OpenMoment()
	}
	return s
}

// Get returns the value that key had, or ErrNotFound. The caller owns it.
func (s *Snapshot) Get(key []byte) ([]byte, error) { return s.GetTo(nil, key) }

// GetTo appends the value that key had to dst and returns the extended slice, or
// dst as it was with an error.
func (s *Snapshot) GetTo(dst, key []byte) ([]byte, error) {
	if err := s.checkRead(key); err != nil {
		return dst, err
	}
	value, err := s.db.getAt(s.moment, dst, key)
	if s.closed.Load() {
		return dst, ErrClosed
	}
	return value, err
}

// Has reports whether key was present.
func (s *Snapshot) Has(key []byte) (bool, error) {
	if err := s.checkRead(key); err != nil {
		return false, err
	}
	found, err := s.db.hasAt(s.moment, key)
	if s.closed.Load() {
		return false, ErrClosed
	}
	return found, err
}

// Scan returns an iterator over the keys in [lo, hi) as they were. The bounds
// mean what they mean for DB.Scan. It must be closed, and may outlive the
// snapshot.
func (s *Snapshot) Scan(lo, hi []byte) *Iterator {
	if s.checkRead(nil) != nil {
		return &Iterator{db: s.db, err: ErrClosed}
	}
	it := s.db.scanAt(s.moment, lo, hi)
	if s.closed.Load() {
		_ = it.Close()
		return &Iterator{db: s.db, err: ErrClosed}
	}
	return it
}

// ScanPrefix returns an iterator over the keys that began with prefix, as Scan
// does for a range.
func (s *Snapshot) ScanPrefix(prefix []byte) *Iterator { return s.Scan(prefix, prefixEnd(prefix)) }

// Close gives the snapshot up: what only it kept will be dropped. A second Close
// is harmless. After the store's Close it returns ErrClosed.
func (s *Snapshot) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if s.moment != nil {
		s.moment.Close()
	}
	if s.db.closed.Load() {
		return ErrClosed
	}
	return nil
}

func (s *Snapshot) checkRead(key []byte) error {
	if s.closed.Load() || s.moment == nil {
		return ErrClosed
	}
	return s.db.checkRead(key)
}

// getAt, hasAt and scanAt read as of a moment. The caller has checked that it
// can be read.
func (d *DB) getAt(moment *tree.Moment, dst, key []byte) ([]byte, error) {
	start := d.recorder.start(opGet)
	value, err := d.tree.GetAt(moment, dst, key)
	d.recorder.stop(opGet, start)
	if err != nil {
		return dst, d.translate(err)
	}
	return value, nil
}

func (d *DB) hasAt(moment *tree.Moment, key []byte) (bool, error) {
	start := d.recorder.start(opGet)
	found, err := d.tree.HasAt(moment, key)
	d.recorder.stop(opGet, start)
	return found, d.translate(err)
}

func (d *DB) scanAt(moment *tree.Moment, lo, hi []byte) *Iterator {
	start := d.recorder.start(opScan)
	it := &Iterator{db: d, rows: d.tree.ScanAt(moment, lo, hi)}
	d.recorder.stop(opScan, start)
	return it
}
