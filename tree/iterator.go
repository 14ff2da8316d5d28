package tree

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// An Iterator walks over the rows of a range in key order, both ways, as they were
// at the moment it was made. It is used by one goroutine. It works on a private
// copy of one leaf and holds no guard, so it may be left standing; what it costs
// is the versions that its moment keeps. Close it.
//
// A new Iterator stands before its first row: Next moves to it, Prev to the last.
// Off the end Next stays false and Prev moves to the last row; off the start the
// other way round. A SeekGE that finds nothing stands at the end, a SeekLT at the
// start. Seeks stay within the bounds.
type Iterator struct {
	t      *Tree
	moment Moment
	lo, hi []byte // bounds; hi is nil if open
	closed bool
	err    error
	merge  error // why the first row whose operands could not be folded has no value

	// The private copy of a leaf: its rows as of the moment. They lie within the
	// bounds from from to to.
	leaf      node
	from, to  int
	prefix    int // bytes of its keys' common prefix, which key begins with
	headsAt   int // as the copy's methods of these names say
	offsetsAt int
	fence     []byte // where to go on, while the copy is replaced

	stand  stand
	i      int    // the row, if stand is onRow
	flags  byte   // of its entry in the copy
	stored []byte // its value there
	key    []byte
	value  []byte // of a row whose value has pages of its own or has been folded
	read   bool   // value is i's
}

type stand uint8

const (
	beforeFirst stand = iota // new
	onRow
	atStart
	atEnd
)

// Scan returns an iterator over the keys in [lo, hi), as of now; nil means open.
// It is not nil; if the store is closed it says ErrClosed.
func (t *Tree) Scan(lo, hi []byte) *Iterator {
	it := t.newIterator(lo, hi)
	if !it.closed {
		it.moment = t.openMoment()
	}
	return it
}

// newIterator returns one without a moment, or a closed one if the store is.
func (t *Tree) newIterator(lo, hi []byte) *Iterator {
	it := &Iterator{t: t, lo: bytes.Clone(lo), hi: bytes.Clone(hi), key: []byte{}}
	if t.closed.Load() {
		it.err, it.closed = ErrClosed, true
	}
	return it
}

// Close gives up the iterator's moment. It returns Err. A second Close is
// harmless.
func (it *Iterator) Close() error {
	if !it.closed {
		it.closed = true
		it.moment.Close()
		it.leaf, it.stand = nil, atEnd
	}
	return it.Err()
}

// Err returns why a move or Value failed, or nil. A row whose operands cannot be
// folded has a key and no value: Err is then ErrNoMerger or a *MergeError, and
// stays so, but the iterator can be moved on.
func (it *Iterator) Err() error {
	if it.err == nil {
		return it.merge
	}
	return it.err
}

// Valid reports whether the iterator stands on a row.
func (it *Iterator) Valid() bool { return it.stand == onRow }

// Key returns the row's key, or nil if not Valid. It is valid until the iterator
// moves.
func (it *Iterator) Key() []byte {
	if it.stand != onRow {
		return nil
	}
	return it.key
}

// Value returns the row's value, or nil if not Valid. It is valid until the
// iterator moves. A large value is read now; if that fails it is nil, and Err
// says why.
func (it *Iterator) Value() []byte {
	if it.stand != onRow {
		return nil
	}
	if it.flags&entryOperand != 0 {
		if !it.read {
			return nil
		}
		return it.value[:len(it.value):len(it.value)]
	}
	if it.flags&entryIndirect == 0 {
		return it.stored[:len(it.stored):len(it.stored)]
	}
	if !it.read {
		value, current, err := it.t.appendChunked(it.value[:0], it.stored)
		if err == nil && !current {
			err = fmt.Errorf("%w: value of %q is gone", ErrCorrupt, it.key)
		}
		if err != nil {
			it.fail(err)
			return nil
		}
		it.value, it.read = value, true
	}
	return it.value
}

// First moves to the first row.
func (it *Iterator) First() bool { return it.SeekGE(it.lo) }

// Last moves to the last row.
func (it *Iterator) Last() bool {
	if it.hi != nil {
		return it.SeekLT(it.hi)
	}
	if !it.usable() || !it.enter(seek{last: true}, 0) {
		return false
	}
	return it.downFrom(it.to)
}

// SeekGE moves to the first row whose key is at least key.
func (it *Iterator) SeekGE(key []byte) bool {
	if !it.usable() {
		return false
	}
	if bytes.Compare(key, it.lo) < 0 {
		key = it.lo
	}
	if it.hi != nil && bytes.Compare(key, it.hi) >= 0 {
		it.stand = atEnd
		return false
	}
	if it.leaf == nil || !it.leaf.contains(key) {
		it.fence = append(it.fence[:0], key...) // key may be a value in the copy
		key = it.fence
		if !it.enter(seek{key: key}, 0) {
			return false
		}
	}
	i, _ := it.leaf.search(key)
	return it.upFrom(i)
}

// SeekLT moves to the last row whose key is below key.
func (it *Iterator) SeekLT(key []byte) bool {
	if !it.usable() {
		return false
	}
	if it.hi != nil && bytes.Compare(key, it.hi) > 0 {
		key = it.hi
	}
	if bytes.Compare(key, it.lo) <= 0 {
		it.stand = atStart
		return false
	}
	it.fence = append(it.fence[:0], key...)
	key = it.fence
	if !it.enter(seek{key: key, strict: true}, 0) {
		return false
	}
	i, _ := it.leaf.search(key)
	return it.downFrom(i)
}

// Next moves to the next row.
func (it *Iterator) Next() bool {
	switch {
	case !it.usable():
		return false
	case it.stand == beforeFirst || it.stand == atStart:
		return it.First()
	case it.stand == atEnd:
		return false
	}
	return it.upFrom(it.after(it.i))
}

// Prev moves to the row before.
func (it *Iterator) Prev() bool {
	switch {
	case !it.usable():
		return false
	case it.stand == beforeFirst || it.stand == atEnd:
		return it.Last()
	case it.stand == atStart:
		return false
	}
	return it.downFrom(it.i)
}

// usable reports whether the iterator can move.
func (it *Iterator) usable() bool {
	if it.closed || it.t.closed.Load() {
		it.fail(ErrClosed)
		return false
	}
	return it.err == nil
}

// fail ends the iterator's life with the first error.
func (it *Iterator) fail(err error) {
	if it.err == nil {
		it.err = err
	}
	it.stand = atEnd
}

// after is the row after row i of the copy, and before the one before it. The
// copy has several entries for a row with operands: those and what they lie on.
func (it *Iterator) after(i int) int {
	if !it.leaf.versioned() {
		return i + 1
	}
	return it.leaf.group(i)
}

func (it *Iterator) before(i int) int {
	i--
	if it.leaf.versioned() {
		for it.leaf.entryFlags(i)&entryOlder != 0 {
			i--
		}
	}
	return i
}

// upFrom moves to the first row from row i of the copy on, in the copy or in the
// leaves right of it.
func (it *Iterator) upFrom(i int) bool { return it.upWithin(i) || it.err == nil && it.forward() }

func (it *Iterator) upWithin(i int) bool {
	for ; i < it.to; i = it.after(i) {
		if present := it.stop(i); present || it.err != nil {
			return present
		}
	}
	return false
}

// downFrom moves to the last row before row i of the copy, in the copy or in the
// leaves left of it.
func (it *Iterator) downFrom(i int) bool { return it.downWithin(i) || it.err == nil && it.backward() }

func (it *Iterator) downWithin(i int) bool {
	for i > it.from {
		i = it.before(i)
		if present := it.stop(i); present || it.err != nil {
			return present
		}
	}
	return false
}

// stop stands on row i of the copy. It is false if operands fold to nothing, or if
// the iterator has failed. All of a scan goes through here: it decodes the entry in
// place.
func (it *Iterator) stop(i int) bool {
	it.stand, it.i, it.read = onRow, i, false
	n := it.leaf
	var b []byte
	if at := it.offsetsAt + 2*i; n[1]&nodeWide == 0 && i+1 < n.count() {
		b = n[le.Uint16(n[at:]):le.Uint16(n[at+2:])]
	} else {
		b = n[n.offset(i):n.offset(i+1)]
	}
	size, at := int(b[1]), 2
	if size >= 0x80 {
		size, at = uvarint(b[1:])
		at++
	}
	if it.flags = b[0]; it.flags&entryStamp != 0 {
		at += 8
	}
	// The key's buffer begins with the prefix, see bound.
	key := binary.BigEndian.AppendUint64(it.key[:it.prefix], le.Uint64(n[it.headsAt+8*i:]))
	if size <= 8 {
		it.key = key[:it.prefix+size]
	} else {
		tail := at + size - 8
		it.key = append(key, b[at:tail]...)
		at = tail
	}
	it.stored = b[at:]
	return it.flags&entryOperand == 0 || it.foldRow()
}

// foldRow folds the row's operands. A merger that fails harms this row only.
func (it *Iterator) foldRow() bool {
	var x pile
	base := it.leaf.group(it.i)
	for i := base - 1; i >= it.i; i-- {
		if e := it.leaf.entry(i); e.flags&entryOperand != 0 {
			x.operands = append(x.operands, e.value...)
		} else {
			x.base, x.flags = append([]byte{}, e.value...), e.flags&entryIndirect
		}
	}
	value, present, current, err := it.t.foldPile(it.value[:0], it.key, &x)
	if err == nil && !current {
		err = fmt.Errorf("%w: value of %q is gone", ErrCorrupt, it.key)
	}
	if err != nil && !isMergeFailure(err) {
		it.fail(err)
		return false
	}
	if err != nil {
		if it.merge == nil {
			it.merge = err
		}
		return true
	}
	if present {
		it.value, it.read = value, true
	}
	return present
}

// forward moves to the first row of the leaves right of the copy. It finds them
// by key, never by place: the copy's high fence says where (T2).
func (it *Iterator) forward() bool {
	for {
		if it.leaf.isLast() || it.hi != nil && bytes.Compare(it.leaf.hi(), it.hi) >= 0 {
			it.stand = atEnd
			return false
		}
		it.fence = append(it.fence[:0], it.leaf.hi()...)
		if !it.enter(seek{key: it.fence}, it.leaf.right()) {
			return false
		}
		// The leaf may begin before the fence: it may have been joined with the one
		// that the copy was made of.
		i, _ := it.leaf.search(it.fence)
		if present := it.upWithin(max(i, it.from)); present || it.err != nil {
			return present
		}
	}
}

// backward moves to the last row of the leaves left of the copy, the next of
// which is the one whose high fence is at least the copy's low one.
func (it *Iterator) backward() bool {
	for {
		if bytes.Compare(it.leaf.lo(), it.lo) <= 0 {
			it.stand = atStart
			return false
		}
		it.fence = append(it.fence[:0], it.leaf.lo()...)
		if !it.enter(seek{key: it.fence, strict: true}, 0) {
			return false
		}
		i, _ := it.leaf.search(it.fence)
		if present := it.downWithin(min(i, it.to)); present || it.err != nil {
			return present
		}
	}
}

// enter makes the copy that of the leaf that s wants, which hint may be. On false
// the iterator has failed or there is no leaf at all.
func (it *Iterator) enter(s seek, hint PID) bool {
	if it.t.root.Load() == nil {
		it.stand = atEnd
		return false
	}
	s.scan = true
	g, p, err := it.t.locate(it.useful(hint, &s), &s, 0)
	if err == nil {
		err = it.copyLeaf(&p)
		if !p.node.isLast() {
			it.t.cache.Prefetch(p.node.right(), scanLines)
		}
		deltas := p.view.Deltas()
		g.Unpin()
		it.t.finish(p.moved)
		if deltas > 0 || p.worn != 0 {
			it.t.smooth(&p, deltas*scanShare)
		}
	}
	if err != nil {
		it.fail(err)
		return false
	}
	it.bound()
	return true
}

const (
	// scanLines is how many cache lines of the next leaf are asked for while the
	// rows of this one are used; the processor sees where copying goes from there.
	scanLines = 4
	// scanShare is how many readers' worth of a delta's cost a scan has: it merges
	// the leaf.
	scanShare = 4
)

// useful returns hint if it is a leaf at or left of where s wants to go, else 0.
func (it *Iterator) useful(hint PID, s *seek) PID {
	if hint == 0 {
		return 0
	}
	g := it.t.cache.Pin()
	defer g.Unpin()
	v, err := it.t.cache.Peek(g, hint)
	if err != nil || !v.Resident() {
		return 0
	}
	n, err := asNode(v.Base())
	if err != nil || !n.isLeaf() || !bytes.Equal(n.lo(), s.key) {
		return 0
	}
	return hint
}

// copyLeaf makes the private copy. REQUIRES: p's guard is held.
func (it *Iterator) copyLeaf(p *place) error {
	buf := it.leaf[:0]
	if buf == nil {
		buf = make([]byte, 0, max(len(p.node), it.t.options.MaxNodeBytes)+64)
	}
	if p.view.Deltas() == 0 && !p.node.versioned() {
		it.leaf = append(buf, p.node...)
		return nil
	}
	m := newMerger()
	defer m.release()
	moment := it.moment.Stamp()
	m.begin(p.node, rule{visible: true, at: moment})
	seq := ^uint32(0) >> 1
	for d := p.view.Newest(); d.Valid(); d = d.Older() {
		stamp, visible := d.Stamp()
		if !visible || stamp > moment {
			continue
		}
		if err := m.add(d.Data(), stamp, seq); err != nil {
			return err
		}
		seq--
	}
	out, err := m.finish(buf)
	if err != nil {
		return err
	}
	it.leaf = out
	return nil
}

// bound finds the rows of the copy that lie within the bounds.
func (it *Iterator) bound() {
	it.prefix = it.leaf.prefixBytes()
	it.headsAt, it.offsetsAt = it.leaf.headsAt(), it.leaf.offsetsAt()
	it.key = append(it.key[:0], it.leaf.prefix()...)
	it.from, it.to = 0, it.leaf.count()
	if len(it.lo) > 0 {
		it.from, _ = it.leaf.search(it.lo)
	}
	if it.hi != nil {
		it.to, _ = it.leaf.search(it.hi)
	}
}
