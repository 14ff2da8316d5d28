package db

import (
	"bytes"

	"github.com/pulkdb/db/tree"
)

// An overlay walks over the rows of a transaction: those of its moment, which
// base has, with the transaction's own writes on them as they were when the scan
// began. It notes in the transaction's readSet how far it has looked: after each
// move the keys from where the move began to the row it found, or to the bound,
// whether the row is stored or the transaction's own.
//
// It stands on a row or at an end. While it stands on a row and goes up, base
// and own stand on their first rows that are not below it; while it goes down,
// on their last that are not above it. A turn seeks both.
type overlay struct {
	tx     *Tx
	base   *tree.Iterator
	writes writeSet // a clone
	lo, hi []byte   // bounds; hi is nil if open
	err    error    // ends all moves
	merge  error    // why the first row whose operands could not be folded has no value

	stand  stand
	up     bool
	key    []byte // of the row; never nil, which would be an open end
	value  []byte // unless it is base's
	isBase bool   // the row is base's, untouched
	end    []byte // buffer for the end of a read

	baseOn bool // base has a row to offer
	own    pointWrite
	ownOn  bool
}

type stand uint8

const (
	beforeFirst stand = iota // new
	onRow
	atStart
	atEnd
)

func newOverlay(tx *Tx, lo, hi []byte) *overlay {
	return &overlay{
		tx:     tx,
		base:   tx.db.tree.ScanAt(tx.moment, lo, hi),
		writes: tx.writes.clone(),
		lo:     bytes.Clone(lo),
		hi:     bytes.Clone(hi),
		key:    []byte{},
	}
}

func (o *overlay) First() bool { return o.SeekGE(o.lo) }

func (o *overlay) Last() bool {
	if o.hi != nil {
		return o.SeekLT(o.hi)
	}
	if !o.usable() {
		return false
	}
	o.up = false
	o.baseOn = o.base.Last()
	o.own, o.ownOn = o.writes.points.Max()
	return o.down(nil)
}

func (o *overlay) SeekGE(key []byte) bool {
	if !o.usable() {
		return false
	}
	if bytes.Compare(key, o.lo) < 0 {
		key = o.lo
	}
	if o.hi != nil && bytes.Compare(key, o.hi) >= 0 {
		o.stand = atEnd
		return false
	}
	key = bytes.Clone(key) // it may be the row's
	o.up = true
	o.baseOn = o.base.SeekGE(key)
	o.own, o.ownOn = o.writes.from(key)
	return o.climb(key)
}

func (o *overlay) SeekLT(key []byte) bool {
	if !o.usable() {
		return false
	}
	if o.hi != nil && bytes.Compare(key, o.hi) > 0 {
		key = o.hi
	}
	if bytes.Compare(key, o.lo) <= 0 {
		o.stand = atStart
		return false
	}
	key = append([]byte{}, key...) // it may be the row's
	o.up = false
	o.baseOn = o.base.SeekLT(key)
	o.own, o.ownOn = o.writes.before(key)
	return o.down(key)
}

func (o *overlay) Next() bool {
	switch {
	case !o.usable():
		return false
	case o.stand == beforeFirst || o.stand == atStart:
		return o.First()
	case o.stand == atEnd:
		return false
	}
	if !o.up {
		o.up = true
		o.baseOn = o.base.SeekGE(o.key)
	}
	if o.baseOn && bytes.Equal(o.base.Key(), o.key) {
		o.baseOn = o.base.Next()
	}
	o.own, o.ownOn = o.writes.after(o.key)
	return o.climb(o.key)
}

func (o *overlay) Prev() bool {
	switch {
	case !o.usable():
		return false
	case o.stand == beforeFirst || o.stand == atEnd:
		return o.Last()
	case o.stand == atStart:
		return false
	}
	if o.up {
		o.up = false
		o.baseOn = o.base.SeekLT(o.key)
	} else if o.baseOn && bytes.Equal(o.base.Key(), o.key) {
		o.baseOn = o.base.Prev()
	}
	o.own, o.ownOn = o.writes.before(o.key)
	return o.down(o.key)
}

// climb stands on the first row that base and own have, and notes that all from
// from to there was read. from may be the row's key.
func (o *overlay) climb(from []byte) bool {
	for !o.failed() {
		if o.ownOn && o.hi != nil && bytes.Compare(o.own.key, o.hi) >= 0 {
			o.ownOn = false
		}
		if o.baseOn {
			if x, erased := o.writes.erased.find(o.base.Key()); erased {
				o.baseOn = x.hi != nil && o.base.SeekGE(x.hi)
				continue
			}
		}
		order := 0
		switch {
		case !o.baseOn && !o.ownOn:
			o.tx.reads.add(from, o.hi)
			o.stand = atEnd
			return false
		case !o.baseOn:
			order = 1
		case !o.ownOn:
			order = -1
		default:
			order = bytes.Compare(o.base.Key(), o.own.key)
		}
		if o.combine(order) {
			key := o.nextKey(order)
			o.end = append(append(o.end[:0], key...), 0)
			o.tx.reads.add(from, o.end)
			o.arrive(key)
			return true
		}
		if order >= 0 {
			o.own, o.ownOn = o.writes.after(o.own.key)
		}
		if order == 0 {
			o.baseOn = o.base.Next()
		}
	}
	return false
}

// down stands on the last row that base and own have, and notes that all from
// there up to to, nil for an open end, was read. to may be the row's key.
func (o *overlay) down(to []byte) bool {
	for !o.failed() {
		if o.ownOn && bytes.Compare(o.own.key, o.lo) < 0 {
			o.ownOn = false
		}
		if o.baseOn {
			if x, erased := o.writes.erased.find(o.base.Key()); erased {
				o.baseOn = o.base.SeekLT(x.lo)
				continue
			}
		}
		order := 0
		switch {
		case !o.baseOn && !o.ownOn:
			o.tx.reads.add(o.lo, to)
			o.stand = atStart
			return false
		case !o.baseOn:
			order = 1
		case !o.ownOn:
			order = -1
		default:
			order = bytes.Compare(o.own.key, o.base.Key())
		}
		if o.combine(order) {
			key := o.nextKey(order)
			o.tx.reads.add(key, to)
			o.arrive(key)
			return true
		}
		if order >= 0 {
			o.own, o.ownOn = o.writes.before(o.own.key)
		}
		if order == 0 {
			o.baseOn = o.base.Prev()
		}
	}
	return false
}

// combine makes the value of the next row: base's if order is negative, own's if
// it is positive, else of both. It reports whether there is a row.
func (o *overlay) combine(order int) bool {
	var stored []byte
	o.value, o.isBase = nil, order < 0
	if order < 0 || order == 0 && o.own.kind == OpMerge {
		if order == 0 || o.base.Err() != nil {
			// A row that could not be folded has no value.
			if stored = o.base.Value(); stored == nil {
				if err := o.base.Err(); isMergeFailure(err) {
					o.spoil(err)
					return true
				} else if err != nil {
					o.fail(err)
					return false
				}
				stored = []byte{}
			}
		}
		if order < 0 {
			return true
		}
	}
	value, err := o.own.fold(o.tx.db.merger, stored)
	if err != nil {
		o.spoil(err)
		return true
	}
	o.value = value
	return value != nil
}

func (o *overlay) nextKey(order int) []byte {
	if order < 0 {
		return o.base.Key()
	}
	return o.own.key
}

func (o *overlay) arrive(key []byte) {
	o.key = append(o.key[:0], key...)
	o.stand = onRow
}

// spoil says that the row has no value, which ends nothing.
func (o *overlay) spoil(err error) {
	if o.merge == nil {
		o.merge = err
	}
}

// fail ends the iterator's life with the first error.
func (o *overlay) fail(err error) {
	if o.err == nil {
		o.err = err
	}
	o.stand = atEnd
}

// failed looks at why base has no row, if it has none.
func (o *overlay) failed() bool {
	if o.err == nil && !o.baseOn {
		if err := o.base.Err(); err != nil && !isMergeFailure(err) {
			o.fail(err)
		}
	}
	return o.err != nil
}

func (o *overlay) usable() bool {
	if o.tx.db.closed.Load() {
		o.fail(ErrClosed)
	}
	return o.err == nil
}

func (o *overlay) Valid() bool { return o.stand == onRow }

func (o *overlay) Key() []byte { return o.key }

func (o *overlay) Value() []byte {
	if !o.isBase {
		return o.value
	}
	value := o.base.Value()
	if value == nil {
		if err := o.base.Err(); err != nil && !isMergeFailure(err) {
			o.fail(err)
		}
	}
	return value
}

func (o *overlay) Err() error {
	if o.err == nil {
		return o.merge
	}
	return o.err
}

func (o *overlay) Close() error {
	o.stand = atEnd
	o.base.Close()
	return o.Err()
}
