package pagecache

import (
	"unsafe"

	"github.com/pulkdb/db/internal/epoch"
)

// A Key is what a caller saw of a page: an update made with it succeeds only if
// the page has not been updated since. It is the page version, which counts the
// updates that a PID ever had, across Free and reuse; so no reused memory or PID
// can pass for the old page, and a page that was only folded, evicted or loaded
// is still the one that was seen.
type Key struct{ version uint64 }

// Version is the page version that the Key saw.
func (k Key) Version() uint64 { return k.version }

// A View is a page as it stood at one instant. Its slices are borrowed from page
// memory: they are valid until the guard it was made under is unpinned, and must
// not be written to.
type View struct {
	c      *Cache
	pid    PID
	word   uint64
	head   *header
	bottom *bottomNode
}

// Pin returns a guard, under which page memory can be read. It costs a few
// nanoseconds and must be unpinned by the same goroutine, soon: memory that was
// replaced is not reclaimed while it is held. Nothing may wait or do I/O under
// a guard.
func (c *Cache) Pin() epoch.Guard { return c.epochs.Pin() }

// View returns the page as it stands, without I/O and without a lock. It returns
// ErrGone if the PID is not in use and ErrClosed after Close. The evictor spares
// pages that are viewed again and again.
func (c *Cache) View(g epoch.Guard, pid PID) (View, error) {
	v, err := c.Peek(g, pid)
	// The line of the mark is read anyway; it is written once per round of the
	// evictor's hand.
	if err == nil && !v.bottom.mark.isTouched() {
		v.bottom.mark.touch()
	}
	return v, err
}

// Peek is View for those to whom it says nothing of what will be read again: it
// makes no difference to the evictor.
func (c *Cache) Peek(g epoch.Guard, pid PID) (View, error) {
	// Before anything of page memory is touched, the table included: Close waits
	// for guards that were pinned before it set closed, and for no others.
	if c.closed.Load() {
		return View{}, ErrClosed
	}
	slot := c.table.slot(pid)
	if slot == nil {
		return View{}, ErrGone
	}
	return c.viewWord(pid, slot.Load())
}

// Prefetch tells the processor that the page will be viewed: its first lines cache
// lines come while the caller goes on, and not one after the other as they are
// found to be needed.
//
// REQUIRES: a guard is held.
func (c *Cache) Prefetch(pid PID, lines int) {
	if slot := c.table.slot(pid); slot != nil {
		if word := slot.Load(); word&slotRefMask != 0 {
			c.arena.Prefetch(refOf(word), lines)
		}
	}
}

// PrefetchBase is Prefetch for the base below the deltas of a page whose first line is
// here already, or on its way.
//
// REQUIRES: a guard is held.
func (c *Cache) PrefetchBase(pid PID, lines int) {
	slot := c.table.slot(pid)
	if slot == nil {
		return
	}
	word := slot.Load()
	if word&slotRefMask == 0 {
		return
	}
	base := refOf(word)
	if h := c.headerAt(word); h.kind == nodeDelta {
		base = refOf(uint64((*deltaNode)(unsafe.Pointer(h)).bottom))
	}
	c.arena.Prefetch(base, lines)
}

func (c *Cache) viewWord(pid PID, word uint64) (View, error) {
	if word&slotRefMask == 0 {
		return View{}, ErrGone
	}
	head := c.headerAt(word)
	v := View{c: c, pid: pid, word: word, head: head}
	switch head.kind {
	case nodeDelta:
		v.bottom = c.bottomAt((*deltaNode)(unsafe.Pointer(head)).bottom)
	case nodeBase, nodeAbsent:
		v.bottom = (*bottomNode)(unsafe.Pointer(head))
	default:
		return View{}, ErrGone
	}
	if v.bottom.kind == nodeAbsent && v.Owned() {
		if lent := c.findBorrowed(pid, v.bottomRef()); lent != nil {
			v.bottom = lent
		}
	}
	return v, nil
}

// PID is the page's identifier.
func (v View) PID() PID { return v.pid }

// Key is what to compare the page with later.
func (v View) Key() Key { return Key{v.head.version} }

// Version is the page version: the number of updates the PID has had.
func (v View) Version() uint64 { return v.head.version }

// Owned reports whether somebody held the page's writer bit at that instant.
func (v View) Owned() bool { return v.word&slotWriter != 0 }

// Resident reports whether all of the page is in memory.
func (v View) Resident() bool { return v.bottom.kind == nodeBase }

// Base is the page's base, or nil if it is not in memory.
func (v View) Base() []byte {
	if !v.Resident() {
		return nil
	}
	return v.bottom.payload()
}

// Deltas is the number of deltas on top of the base.
func (v View) Deltas() int {
	if d := v.top(); d != nil {
		return int(d.count)
	}
	return 0
}

// Size is the bytes of the base, if resident, and of the deltas in memory.
func (v View) Size() int {
	n := int(v.bottom.length)
	if d := v.top(); d != nil {
		n += int(d.bytes)
	}
	return n
}

// Newest is the newest delta; it is not Valid if there is none.
func (v View) Newest() Delta { return Delta{c: v.c, node: v.top()} }

func (v View) top() *deltaNode {
	if v.head.kind != nodeDelta {
		return nil
	}
	return (*deltaNode)(unsafe.Pointer(v.head))
}

// A Delta is one delta of a View, borrowed as the View is.
type Delta struct {
	c    *Cache
	node *deltaNode
}

// Valid reports whether there is a delta.
func (d Delta) Valid() bool { return d.node != nil }

// Data is the delta as it was appended.
func (d Delta) Data() []byte { return d.node.payload() }

// Hint is the number that was given with it.
func (d Delta) Hint() uint16 { return d.node.hint }

// Older is the next older delta.
func (d Delta) Older() Delta {
	h := d.c.headerAt(d.node.older)
	if h.kind != nodeDelta {
		return Delta{}
	}
	return Delta{c: d.c, node: (*deltaNode)(unsafe.Pointer(h))}
}

// Stamp returns when the delta became visible. A delta that has no stamp yet
// gets it now: whoever returns a version to its caller must have fixed its
// place in time first, or a read snapshot opened afterwards could miss it.
// visible is false for the deltas of an Update that is still being installed:
// readers skip them.
func (d Delta) Stamp() (stamp uint64, visible bool) { return d.c.stampOf(d.node) }

func (c *Cache) stampOf(d *deltaNode) (stamp uint64, visible bool) {
	w := d.cell.Load()
	if w != 0 && w&cellShared == 0 {
		return w, true
	}
	return c.stampSlow(d, w)
}

func (c *Cache) stampSlow(d *deltaNode, w uint64) (stamp uint64, visible bool) {
	if w == 0 {
		d.cell.CompareAndSwap(0, c.clock.Load())
		w = d.cell.Load()
	}
	if w&cellShared == 0 {
		return w, true
	}
	cell := c.arena.Word(refOf(w&^cellShared), 0)
	s := cell.Load()
	if s == cellInstalling {
		return 0, false
	}
	if s == cellReady {
		cell.CompareAndSwap(cellReady, c.clock.Load())
		s = cell.Load()
	}
	return s, true
}

// NewestStamp is a stamp that no version of the page is above: the newest one's,
// or a little more in a page that was replaced. It is exact enough to tell, also
// of an evicted page, that nothing in it is newer than a moment. visible is
// false if an Update is being installed in the page.
func (v View) NewestStamp() (stamp uint64, visible bool) {
	if d := v.top(); d != nil {
		if _, visible := v.c.stampOf(d); !visible {
			return 0, false
		}
	}
	return v.newestStamp(), true
}

// LogBytes is what the page takes in the log, and places is in how many places
// it stands there: so many reads bring it back, were it evicted.
func (v View) LogBytes() (n, places int) {
	for i := range int(v.bottom.positions) {
		n += int(v.bottom.position(i).Size)
	}
	places = int(v.bottom.positions)
	for d := v.top(); d != nil; d = v.c.olderDelta(d) {
		n += int(d.size)
		places++
	}
	return n, places
}

// newestStamp is the newest stamp of the page.
func (v View) newestStamp() uint64 {
	stamp := v.bottom.stamp
	if d := v.top(); d != nil {
		if s, visible := v.c.stampOf(d); visible {
			stamp = max(stamp, s)
		}
	}
	return stamp
}

// versionAt is the page version that a slot's word stands for.
func (c *Cache) versionAt(word uint64) uint64 {
	if word&slotRefMask == 0 {
		return 0
	}
	return c.headerAt(word).version
}
