package db

import (
	"iter"

	"github.com/pulkdb/db/tree"
)

// An Iterator walks over rows in key order, in both directions. It sees the
// store as it stood when it was made, whatever is written meanwhile.
//
// A new Iterator stands before its first row: Next moves to that row and Prev
// to the last one. Off the end Next stays there and Prev goes to the last row;
// off the start it is the other way round. A move returns Valid; if it returns
// false, ask Err whether the rows ended or reading failed.
//
// A row on which Options.Merger fails has a key and a nil value, and Err says
// why from then on; All and Backward end there, and the moves go on behind it.
//
// An Iterator belongs to one goroutine at a time and must be closed: while it
// is open, the store keeps the versions that it can see. Scan of a Tx gives one
// that ends with the transaction: a move fails with ErrTxDone then.
type Iterator struct {
	db   *DB
	tx   *Tx    // whose it is, or nil
	rows cursor // nil once closed, and if the store was closed before
	err  error  // set when rows is nil
}

// A cursor is what an Iterator gets its rows from: those of the store, or of a
// transaction with its own writes. Its methods mean what the Iterator's do. Key
// and Value are called if Valid.
type cursor interface {
	First() bool
	Last() bool
	SeekGE(key []byte) bool
	SeekLT(key []byte) bool
	Next() bool
	Prev() bool
	Valid() bool
	Key() []byte
	Value() []byte
	Err() error
	Close() error
}

var (
	_ cursor = (*tree.Iterator)(nil)
	_ cursor = (*overlay)(nil)
)

// First moves to the first row.
func (it *Iterator) First() bool { return it.open() && it.rows.First() }

// Last moves to the last row.
func (it *Iterator) Last() bool { return it.open() && it.rows.Last() }

// SeekGE moves to the first row whose key is key or greater. If there is none
// within the bounds, it stands off the end.
func (it *Iterator) SeekGE(key []byte) bool { return it.open() && it.rows.SeekGE(key) }

// SeekLT moves to the last row whose key is less than key. If there is none
// within the bounds, it stands off the start.
func (it *Iterator) SeekLT(key []byte) bool { return it.open() && it.rows.SeekLT(key) }

// Next moves to the next row.
func (it *Iterator) Next() bool { return it.open() && it.rows.Next() }

// Prev moves to the previous row.
func (it *Iterator) Prev() bool { return it.open() && it.rows.Prev() }

// Valid reports whether the iterator stands on a row.
func (it *Iterator) Valid() bool { return it.rows != nil && it.rows.Valid() }

// Key returns the key of the row, or nil when not Valid. It must not be
// changed, and is valid until the iterator moves or is closed.
func (it *Iterator) Key() []byte {
	if !it.Valid() {
		return nil
	}
	return it.rows.Key()
}

// Value returns the value of the row, or nil when not Valid. It must not be
// changed, and is valid until the iterator moves or is closed. A value of many
// pages is read now; if that fails, Value returns nil and Err says why.
func (it *Iterator) Value() []byte {
	if !it.Valid() {
		return nil
	}
	return it.rows.Value()
}

// Err returns the error that made a move or Value fail, if one did. It can be asked
// after Close too. A move after Close fails with ErrClosed.
func (it *Iterator) Err() error {
	if it.rows == nil {
		return it.err
	}
	return it.db.translate(it.rows.Err())
}

// Close releases what the iterator holds and returns Err. A second Close is
// harmless.
func (it *Iterator) Close() error {
	if it.rows != nil {
		it.err = it.Err()
		_ = it.rows.Close()
		it.rows = nil
		if it.tx != nil {
			delete(it.tx.iterators, it)
		}
	}
	return it.err
}

// All returns the rows from the first to the last, wherever the iterator
// stands, for use with range; it closes the iterator when the loop ends. Keys
// and values are valid during one round of the loop. Ask Err afterwards.
func (it *Iterator) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			key, value := it.Key(), it.Value()
			if it.Err() != nil || !yield(key, value) {
				return
			}
		}
	}
}

// Backward returns the rows from the last to the first, and is otherwise like
// All.
func (it *Iterator) Backward() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		defer it.Close()
		for ok := it.Last(); ok; ok = it.Prev() {
			key, value := it.Key(), it.Value()
			if it.Err() != nil || !yield(key, value) {
				return
			}
		}
	}
}

// open reports whether the iterator can move, and sets err if it cannot.
func (it *Iterator) open() bool {
	if it.rows == nil && it.err == nil {
		it.err = ErrClosed
		if it.tx != nil && it.tx.done.Load() {
			it.err = ErrTxDone
		}
	}
	return it.rows != nil
}
