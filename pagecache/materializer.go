package pagecache

import "slices"

// A Fragment is what one record holds of a page: its base, or one delta.
type Fragment struct {
	Data  []byte
	Stamp uint64 // when a delta became visible; 0 for a base
}

// A Merging is what a Materializer is asked to fold. It is valid during the call.
type Merging struct {
	PID       PID
	Fragments []Fragment // oldest first; borrowed
	Base      bool       // Fragments[0] is the base
	Moments   []uint64   // of the open read snapshots, ascending
	KeepAll   bool       // a read snapshot is being opened: no version may be dropped
	Clock     uint64     // every read snapshot opened from now on has a moment >= Clock
	Trial     bool       // the result is measured and thrown away

	freed []freedPage
}

type freedPage struct {
	pid     PID
	version uint64
}

// Free asks that page pid, last updated as version, be freed in the record that
// carries the merged page: for pages that only what was dropped referred to.
func (m *Merging) Free(pid PID, version uint64) {
	m.freed = append(m.freed, freedPage{pid, version})
}

func (m *Merging) reset(pid PID) {
	*m = Merging{PID: pid, Fragments: m.Fragments[:0], Moments: m.Moments[:0], freed: m.freed[:0]}
}

// Recovery is state that a fragment carries for the next Open, such as: this page
// is the root. Of the fragments with one Tree that were ever written, the one
// with the highest Generation counts, wherever in the log it stands: a former
// root that is moved later must not win.
type Recovery struct {
	Tree       uint64
	Generation uint64
	PID        PID    // filled in by the cache
	State      []byte // owned by the cache; at most 64 KiB
}

// A Materializer is the page owner's code that folds fragments. Its methods are
// called by many goroutines at once and must be pure: what they return depends
// on their arguments only, and they call nothing of the Cache.
type Materializer interface {
	// Merge appends to dst the fragment that the given ones amount to. An error
	// (or a panic, which becomes one) leaves the page as it is.
	Merge(dst []byte, m *Merging) ([]byte, error)

	// Recover reports the recovery state that a base carries, if any. It is
	// called for every base that is written or replayed.
	Recover(base []byte) (Recovery, bool)
}

// A Keeper is a Materializer that can tell which pages to evict last, such as
// the inner nodes of a tree.
type Keeper interface {
	Keep(base []byte) bool
}

// Merging fills m from a resident view: the fragments first and the open read
// snapshots second, which is what makes dropping versions safe. A snapshot that
// is not seen here takes its moment later, so it sees the newest of the versions
// that were seen before. It reports false if the page is not resident, or if
// an Update is being installed in it.
func (v View) Merging(m *Merging) bool {
	m.reset(v.pid)
	if !v.Resident() {
		return false
	}
	if !v.appendDeltas(m) {
		return false
	}
	m.Fragments = append(m.Fragments, Fragment{Data: v.bottom.payload()})
	slices.Reverse(m.Fragments)
	m.Base = true
	v.c.moments.collect(m, &v.c.clock)
	return true
}

// appendDeltas appends the view's deltas, newest first.
func (v View) appendDeltas(m *Merging) bool {
	for d := v.Newest(); d.Valid(); d = d.Older() {
		stamp, visible := d.Stamp()
		if !visible {
			return false
		}
		m.Fragments = append(m.Fragments, Fragment{Data: d.Data(), Stamp: stamp})
	}
	return true
}
