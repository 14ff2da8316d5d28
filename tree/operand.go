package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A Merger returns what operand makes of base, the value of key. A nil base means
// that key is absent, a nil result that it is to be. It is a pure function: the
// same operands may be folded any number of times, while the store is read and in
// the background, by many goroutines at once. It calls nothing of the store. Its
// arguments are its own.
type Merger func(key, base, operand []byte) ([]byte, error)

// A MergeError says that the Merger failed or panicked on an operand of Key. The
// operands are kept. It harms reads of that key only.
type MergeError struct {
	Key []byte
	Err error
}

func (e *MergeError) Error() string { return fmt.Sprintf("tree: merging %q: %v", e.Key, e.Err) }

// Unwrap returns Err.
func (e *MergeError) Unwrap() error { return e.Err }

// isMergeFailure reports whether err is about one key's operands.
func isMergeFailure(err error) bool {
	var failed *MergeError
	return errors.Is(err, ErrNoMerger) || errors.As(err, &failed)
}

// An operand list is the value of an entry or a change that has entryOperand: at
// least one operand, the oldest first, and each is its length, a uvarint, and its
// bytes. So two lists are joined by putting one behind the other.
//
// Example: the operands "a" and "bc" are 01 61 02 62 63; TestOperandsExample fixes
// it.

// appendOperands appends a list of the operands.
func appendOperands(dst []byte, operands [][]byte) []byte {
	for _, x := range operands {
		dst = appendOperand(dst, x)
	}
	return dst
}

func appendOperand(dst, operand []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(operand)))
	return append(dst, operand...)
}

// nextOperand splits off the first operand of a list; ok is false at the end or if
// the list is malformed, which leaves bytes in rest.
func nextOperand(list []byte) (operand, rest []byte, ok bool) {
	n, size := uvarint(list)
	if size == 0 || len(list) < size+n {
		return nil, list, false
	}
	return list[size : size+n : size+n], list[size+n:], true
}

// validOperands reports whether list is an operand list.
func validOperands(list []byte) bool {
	ok := len(list) > 0
	for ok && len(list) > 0 {
		_, list, ok = nextOperand(list)
	}
	return ok
}

func countOperands(list []byte) int {
	count := 0
	for {
		_, rest, ok := nextOperand(list)
		if !ok {
			return count
		}
		list, count = rest, count+1
	}
}

// A folder folds operands. The zero folder folds none.
type folder struct {
	merger   Merger
	bytesMax int // results that are longer are not taken; 0: any is
}

// folder returns what merges of leaves fold with.
func (t *Tree) folder() folder { return folder{merger: t.options.Merger, bytesMax: t.inlineMax} }

var errFoldTooLong = errors.New("tree: result is too long for a leaf")

// fold applies the operands of list, oldest first, to base, which is nil if the
// key is absent. It stops at the first on which the merger fails, and returns what
// it has by then with the list of those that remain. value is nil or the
// folder's.
func (f folder) fold(key, base, list []byte) (value, rest []byte, err error) {
	value = base
	if f.merger == nil {
		return value, list, ErrNoMerger
	}
	for len(list) > 0 {
		operand, after, ok := nextOperand(list)
		if !ok {
			return value, list, fmt.Errorf("%w: list of operands", ErrCorrupt)
		}
		next, err := f.call(key, value, operand)
		if err != nil {
			return value, list, err
		}
		value, list = next, after
	}
	return value, nil, nil
}

// call calls the merger with copies, and copies what it returns: neither side may
// hold on to what is the other's.
func (f folder) call(key, base, operand []byte) (value []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("merger panicked: %v", r)
		}
		if err != nil && err != errFoldTooLong {
			err = &MergeError{Key: append([]byte{}, key...), Err: err}
		}
	}()
	value, err = f.merger(append([]byte{}, key...), bytes.Clone(base), append([]byte{}, operand...))
	switch {
	case err != nil:
		return nil, err
	case len(value) > MaxValueBytes:
		return nil, fmt.Errorf("%w: result of %d bytes", ErrTooLarge, len(value))
	case f.bytesMax > 0 && len(value) > f.bytesMax:
		return nil, errFoldTooLong
	}
	return bytes.Clone(value), nil
}

// A pile is what a reader sees of a key whose newest version is an operand: the
// operands and what they lie on. It is a copy.
type pile struct {
	operands []byte // a list
	base     []byte // as stored; nil if the key is absent below
	flags    byte   // of the base: entryIndirect or 0
}

// gather returns the pile that a reader at the moment sees of key in the leaf.
//
// REQUIRES: lookup has found an operand.
func gather(p *place, key []byte, moment uint64) (pile, error) {
	var x pile
	var lists [][]byte // newest first
	done := false
	take := func(flags byte, value []byte) {
		switch {
		case flags&entryOperand != 0:
			lists = append(lists, value)
			return
		case flags&entryTombstone == 0:
			x.base, x.flags = append([]byte{}, value...), flags&entryIndirect
		}
		done = true
	}
	for d := p.view.Newest(); d.Valid() && !done; d = d.Older() {
		c, has, err := findChange(d.Data(), key)
		if err != nil {
			return x, err
		}
		if stamp, visible := d.Stamp(); has && visible && stamp <= moment {
			take(c.flags, c.value)
		}
	}
	if i, equal := p.node.search(key); equal {
		for end := p.node.group(i); i < end && !done; i++ {
			if e := p.node.entry(i); e.stamp <= moment {
				take(e.flags, e.value)
			}
		}
	}
	for i := len(lists) - 1; i >= 0; i-- {
		x.operands = append(x.operands, lists[i]...)
	}
	return x, nil
}

// stored is the pile as an expectation compares it: it says the same however the
// operands are spread over versions.
func (x *pile) stored() expectation {
	flags := byte(entryOperand) | x.flags
	if x.base == nil {
		flags |= entryTombstone
	}
	list := binary.AppendUvarint(nil, uint64(len(x.operands)))
	list = append(list, x.operands...)
	return expectation{kind: expectStored, value: append(list, x.base...), flags: flags}
}

// foldPile appends to dst what the pile amounts to, which has operands or lies in
// chunks; present is false if that is
// nothing. current is false if a chunk of the base is gone: then the key is to be
// looked up again. No guard is held. Errors: ErrNoMerger, *MergeError, and what
// loading a chunk failed with.
func (t *Tree) foldPile(dst, key []byte, x *pile) (out []byte, present, current bool, err error) {
	if len(x.operands) == 0 {
		out, current, err = t.appendChunked(dst, x.base)
		return out, true, current, err
	}
	base := x.base
	if x.flags&entryIndirect != 0 {
		if base, current, err = t.appendChunked([]byte{}, x.base); !current || err != nil {
			return dst, false, current, err
		}
	}
	value, _, err := folder{merger: t.options.Merger}.fold(key, base, x.operands)
	if err != nil || value == nil {
		return dst, false, true, err
	}
	if dst = append(dst, value...); dst == nil {
		dst = []byte{} // an empty value is a value
	}
	return dst, true, true, nil
}

// Merge adds an operand to key, which the Merger folds into its value when that is
// read, or in the background. It is blind: the value is not read. Errors: as of
// Set, ErrNoMerger, and ErrTooLarge for an operand longer than a quarter of what a
// record of the log holds.
func (t *Tree) Merge(key, operand []byte) error {
	if t.options.Merger == nil {
		if t.closed.Load() {
			return ErrClosed
		}
		return ErrNoMerger
	}
	if len(operand) > t.operandMax() {
		return fmt.Errorf("%w: operand of %d bytes", ErrTooLarge, len(operand))
	}
	if err := t.writable(key, nil); err != nil {
		return err
	}
	b := t.getScratch()
	defer t.putScratch(b)
	*b = appendOne(*b, kindLeafOne, entryOperand, key, nil)
	*b = appendOperand(*b, operand)
	lsn, _, err := t.add(&addition{key: key, delta: *b, hint: hintOf(key)})
	if err != nil {
		return err
	}
	return t.wait(lsn)
}

// operandMax is the length of the longest operand.
func (t *Tree) operandMax() int { return t.cache.MaxFragment() / 4 }

// settleOperands is how many operands that a merge could not fold a key has when
// they are folded by a write, because they lie on a value with pages of its own or
// amount to one; or they have the bytes of half a node.
const settleOperands = 64

// settle replaces by full values the operands of those keys of the leaf that a
// merge cannot fold. It changes what is stored, and nothing that anyone reads. Of
// a key whose merger fails, or that somebody has written to, it keeps its hands
// off.
func (t *Tree) settle(pid PID) error {
	if t.options.Merger == nil {
		return nil
	}
	for _, key := range t.unsettled(pid) {
		value, stored, err := t.current(key)
		if err != nil || stored.flags&entryOperand == 0 {
			continue
		}
		a := addition{key: key, hint: hintOf(key), expect: stored, settling: true}
		switch {
		case value == nil:
			a.delta = appendOne(nil, kindLeafOne, entryTombstone, key, nil)
		case len(value) > t.streamMin:
			if done, err := t.stream(&a, bytes.NewReader(value), len(value)); err != nil {
				return err
			} else if done {
				t.metrics.settled.Add(1)
			}
			continue
		case len(value) > t.inlineMax:
			a.pages, a.total = t.chunkPages(value), len(value)
		default:
			a.delta = appendOne(nil, kindLeafOne, 0, key, value)
		}
		if _, done, err := t.add(&a); err != nil {
			return err
		} else if done {
			t.metrics.settled.Add(1)
		}
	}
	return nil
}

// unsettled returns the keys that settle is for.
func (t *Tree) unsettled(pid PID) (keys [][]byte) {
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.View(g, pid)
	if err != nil || !v.Resident() {
		return nil
	}
	n, err := asNode(v.Base())
	if err != nil || !n.isLeaf() || !n.versioned() {
		return nil
	}
	for i := 0; i < n.count(); {
		end, size, count := n.group(i), 0, 0
		for k := i; k < end && n.entryFlags(k)&entryOperand != 0; k++ {
			list := n.entry(k).value
			size, count = size+len(list), count+countOperands(list)
		}
		if size >= t.options.MaxNodeBytes/2 || count >= settleOperands {
			keys = append(keys, n.appendKey([]byte{}, i))
		}
		i = end
	}
	return keys
}
