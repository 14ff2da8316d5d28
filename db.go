package db

import (
	"fmt"
	"sync/atomic"

	"github.com/pulkdb/db/tree"
)

// Limits of what a store accepts.
const (
	MaxKeyBytes   = 64 << 10 // longest key
	MaxValueBytes = 1 << 30  // longest value
)

// A DB is an open store. Its methods may be called from many goroutines at
// once. After Close each of them fails with ErrClosed.
type DB struct {
	// Immutable after Open.
	dir      string
	tree     *tree.Tree
	readOnly bool
	merger   Merger // nil: none

	// Atomic.
	closed   atomic.Bool
	retries  atomic.Uint64 // of Update
	recorder recorder
}

// Open opens the store in directory dir, which it creates if there is none.
// Nil options stand for the zero Options, and every zero field for its default.
//
// Open recovers what the last process left behind, also after a crash. It
// fails with ErrLocked while another process, or another DB of this one, has
// the store open; with ErrNotStore when dir is something else than a directory
// that is empty or holds a store; with ErrVersion when the files were written
// in a format that this version does not know; and with a *CorruptError when
// bytes that were durable have changed. It deletes nothing in these cases.
func Open(dir string, opts *Options) (*DB, error) {
	o := opts.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	if !o.InMemory {
		if err := checkDir(dir, o.ReadOnly); err != nil {
			return nil, err
		}
	}
	d := &DB{dir: dir, readOnly: o.ReadOnly, merger: o.Merger}
	var err error
	if d.tree, err = tree.Open(o.tree(dir)); err != nil {
		return nil, fmt.Errorf("db: open %s: %w", dir, d.translate(err))
	}
	return d, nil
}

// Close makes all writes durable, stops what the store runs in the background
// and releases the directory. It does not wait for open iterators, snapshots and
// transactions, whose next use fails with ErrClosed. A second Close returns
// ErrClosed.
//
// An error means that the last writes may not be durable; the store is closed
// all the same.
func (d *DB) Close() error {
	if d.closed.Swap(true) {
		return ErrClosed
	}
	return d.translate(d.tree.Close())
}

// Get returns the value of key, or ErrNotFound. The caller owns the value.
func (d *DB) Get(key []byte) ([]byte, error) {
	value, err := d.GetTo(nil, key)
	if err == nil && value == nil {
		value = []byte{}
	}
	return value, err
}

// GetTo appends the value of key to dst and returns the extended slice. If dst
// has room and the page is in memory, it allocates nothing. With an error, of
// which ErrNotFound is one, it returns dst as it was.
func (d *DB) GetTo(dst, key []byte) ([]byte, error) {
	if err := d.checkRead(key); err != nil {
		return dst, err
	}
	start := d.recorder.start(opGet)
	value, err := d.tree.GetTo(dst, key)
	d.recorder.stop(opGet, start)
	if err != nil {
		return dst, d.translate(err)
	}
	return value, nil
}

// Has reports whether key is present.
func (d *DB) Has(key []byte) (bool, error) {
	if err := d.checkRead(key); err != nil {
		return false, err
	}
	start := d.recorder.start(opGet)
	found, err := d.tree.Has(key)
	d.recorder.stop(opGet, start)
	return found, d.translate(err)
}

// Set stores value under key, in the place of any value that was there.
func (d *DB) Set(key, value []byte) error {
	if err := d.checkWrite(key, value); err != nil {
		return err
	}
	start := d.recorder.start(opSet)
	err := d.tree.Set(key, value)
	d.recorder.stop(opSet, start)
	if err != nil {
		return d.translate(err)
	}
	d.recorder.wrote(len(key) + len(value))
	return nil
}

// Delete removes key. That key is absent is no error. Like Set, it does not read
// the key's page if that is not in memory.
func (d *DB) Delete(key []byte) error {
	if err := d.checkWrite(key, nil); err != nil {
		return err
	}
	start := d.recorder.start(opDelete)
	err := d.tree.Delete(key)
	d.recorder.stop(opDelete, start)
	if err != nil {
		return d.translate(err)
	}
	d.recorder.wrote(len(key))
	return nil
}

// DeleteRange removes all keys in [lo, hi) at one moment. The bounds mean what
// they mean for Scan. It is atomic: seen, and found after a crash, as a whole. It
// writes a few bytes for each page of the range, none for each key.
func (d *DB) DeleteRange(lo, hi []byte) error {
	if err := d.checkWrite(nil, nil); err != nil {
		return err
	}
	x, ok := span{lo, hi}.storable()
	if !ok {
		return nil
	}
	start := d.recorder.start(opDeleteRange)
	err := d.tree.DeleteRange(x.lo, x.hi)
	d.recorder.stop(opDeleteRange, start)
	if err != nil {
		return d.translate(err)
	}
	d.recorder.wrote(len(lo) + len(hi))
	return nil
}

// Merge adds operand to what key has, for Options.Merger to fold when the key is
// read, or in the background. The value is not read, so that Merge costs what a
// Set of the operand does. Operands apply in the order in which they were
// added. An operand is short: about 250 KiB at most, else Merge fails with
// ErrTooLarge. Without Options.Merger it fails with ErrNoMerger.
func (d *DB) Merge(key, operand []byte) error {
	if err := d.checkMerge(key, operand); err != nil {
		return err
	}
	start := d.recorder.start(opMerge)
	err := d.tree.Merge(key, operand)
	d.recorder.stop(opMerge, start)
	if err != nil {
		return d.translate(err)
	}
	d.recorder.wrote(len(key) + len(operand))
	return nil
}

// CompareAndSwap sets key to new if its value is old, in one step. A nil old
// means that key must be absent, a nil new that key is to be deleted; an empty
// slice is the empty value.
//
// When it did not swap, current is the value that it found instead: nil if key
// is absent, never nil otherwise. The caller owns it. When it swapped, current
// is nil.
func (d *DB) CompareAndSwap(key, old, new []byte) (swapped bool, current []byte, err error) {
	if err := d.checkWrite(key, new); err != nil {
		return false, nil, err
	}
	start := d.recorder.start(opCompareAndSwap)
	swapped, current, err = d.tree.CompareAndSwap(key, old, new)
	d.recorder.stop(opCompareAndSwap, start)
	if err != nil {
		return false, nil, d.translate(err)
	}
	if swapped {
		d.recorder.wrote(len(key) + len(new))
	}
	return swapped, current, nil
}

// Scan returns an iterator over the keys in [lo, hi) as they are now. A nil lo
// is the first key and a nil hi is behind the last one; an empty hi, or a lo
// that is not below hi, leaves nothing to see and is no error. The iterator
// stands before its first row. It must be closed.
func (d *DB) Scan(lo, hi []byte) *Iterator {
	if d.closed.Load() {
		return &Iterator{db: d, err: ErrClosed}
	}
	start := d.recorder.start(opScan)
	it := &Iterator{db: d, rows: d.tree.Scan(lo, hi)}
	d.recorder.stop(opScan, start)
	return it
}

// ScanPrefix returns an iterator over the keys that begin with prefix, as Scan
// does for a range.
func (d *DB) ScanPrefix(prefix []byte) *Iterator {
	return d.Scan(prefix, prefixEnd(prefix))
}

// NewBatch returns an empty Batch of this store.
func (d *DB) NewBatch() *Batch { return newBatch(d) }

// Sync returns when every write that was acknowledged before is durable. With
// DurabilitySync that is so anyway. On a read-only store it does nothing.
func (d *DB) Sync() error {
	if d.closed.Load() {
		return ErrClosed
	}
	if d.readOnly {
		return nil
	}
	start := d.recorder.start(opSync)
	err := d.tree.Sync()
	d.recorder.stop(opSync, start)
	return d.translate(err)
}

// prefixEnd returns the least key that is greater than every key beginning
// with prefix, or nil if there is none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// checkRead says why key cannot be looked up, if it cannot.
func (d *DB) checkRead(key []byte) error {
	if d.closed.Load() {
		return ErrClosed
	}
	return checkKey(key)
}

// checkWrite says why key cannot be set to value, if it cannot.
func (d *DB) checkWrite(key, value []byte) error {
	if d.closed.Load() {
		return ErrClosed
	}
	if d.readOnly {
		return ErrReadOnly
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if len(value) > MaxValueBytes {
		return fmt.Errorf("%w: a value of %d bytes, at most %d", ErrTooLarge, len(value), MaxValueBytes)
	}
	return nil
}

// checkMerge says why operand cannot be added to key, if it cannot.
func (d *DB) checkMerge(key, operand []byte) error {
	if err := d.checkWrite(key, operand); err != nil {
		return err
	}
	if d.merger == nil {
		return ErrNoMerger
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: a key of %d bytes, at most %d", ErrTooLarge, len(key), MaxKeyBytes)
	}
	return nil
}
