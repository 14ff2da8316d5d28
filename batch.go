package db

import (
	"fmt"
	"iter"
)

// A Batch is a list of writes that take effect at one moment: readers see all
// of them or none, and so does whoever opens the store after a crash. The
// writes apply in the order of the calls, so the last one to a key counts, and a
// DeleteRange takes what was set before it in the batch, not what comes after.
//
// A Batch is held in memory and belongs to one goroutine at a time. Commit does
// not consume it: it can be committed again, until Reset empties it.
type Batch struct {
	db     *DB
	ops    []Op     // in call order
	writes writeSet // what they come to
	size   int      // bytes of the keys, values and bounds in ops
	copies copier   // of arguments
}

// An OpKind says what an Op does. The numbers are fixed.
type OpKind uint8

const (
	OpSet         OpKind = 1 // Key gets Value
	OpDelete      OpKind = 2 // Key goes
	OpDeleteRange OpKind = 3 // the keys from Key up to but not including End go
	OpMerge       OpKind = 4 // Options.Merger folds Value into what Key has
)

// String gives the name of k, as "set".
func (k OpKind) String() string {
	switch k {
	case OpSet:
		return "set"
	case OpDelete:
		return "delete"
	case OpDeleteRange:
		return "delete range"
	case OpMerge:
		return "merge"
	}
	return fmt.Sprintf("OpKind(%d)", uint8(k))
}

// An Op is one write of a Batch.
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte // of an OpSet, and the operand of an OpMerge
	End   []byte // of an OpDeleteRange; nil is an open end
}

func newBatch(d *DB) *Batch { return &Batch{db: d, writes: newWriteSet()} }

// Set adds a write of value under key.
func (b *Batch) Set(key, value []byte) error {
	if err := b.db.checkWrite(key, value); err != nil {
		return err
	}
	op := Op{Kind: OpSet, Key: b.copies.copy(key), Value: b.copies.copy(value)}
	b.writes.set(op.Key, op.Value)
	b.add(op)
	return nil
}

// Delete adds the removal of key.
func (b *Batch) Delete(key []byte) error {
	if err := b.db.checkWrite(key, nil); err != nil {
		return err
	}
	op := Op{Kind: OpDelete, Key: b.copies.copy(key)}
	b.writes.delete(op.Key)
	b.add(op)
	return nil
}

// DeleteRange adds the removal of all keys in [lo, hi): those that the store has
// when the batch is committed, and those that were written in the batch before.
// The bounds mean what they mean for Scan; the removal of an empty range is
// added as well and does nothing.
func (b *Batch) DeleteRange(lo, hi []byte) error {
	if err := b.db.checkWrite(nil, nil); err != nil {
		return err
	}
	op := Op{Kind: OpDeleteRange, Key: b.copies.copyEnd(lo), End: b.copies.copyEnd(hi)}
	b.writes.erase(span{op.Key, op.End})
	b.add(op)
	return nil
}

// Merge adds an operand to key, as DB.Merge does. Operands on a key that the
// batch has set or deleted before are folded by Commit, which fails if
// Options.Merger does.
func (b *Batch) Merge(key, operand []byte) error {
	if err := b.db.checkMerge(key, operand); err != nil {
		return err
	}
	op := Op{Kind: OpMerge, Key: b.copies.copy(key), Value: b.copies.copy(operand)}
	b.writes.merge(op.Key, op.Value)
	b.add(op)
	return nil
}

// Len returns the number of writes that were added.
func (b *Batch) Len() int { return len(b.ops) }

// Size returns the bytes of all keys, values, operands and bounds that were
// added.
func (b *Batch) Size() int { return b.size }

// Reset empties the batch. Its memory is used again, so an Op that All gave out
// before must not be used any more.
func (b *Batch) Reset() {
	clear(b.ops)
	b.ops = b.ops[:0]
	b.writes.clear()
	b.size = 0
	b.copies.reset()
}

// All returns the writes in the order of the calls. What an Op holds must not
// be changed and is valid until Reset.
func (b *Batch) All() iter.Seq[Op] {
	return func(yield func(Op) bool) {
		for _, op := range b.ops {
			if !yield(op) {
				return
			}
		}
	}
}

// Commit applies the batch. When it returns nil, the batch is as durable as a
// single Set would be. An error never leaves a part of it: after ErrFailed
// readers may see all of it, and a later Open finds all of it or nothing; after
// any other error nothing of it was written. It fails with a *MergeError if
// operands on a value of the batch itself cannot be folded.
func (b *Batch) Commit() error {
	if err := b.db.checkWrite(nil, nil); err != nil {
		return err
	}
	if b.writes.empty() {
		return nil
	}
	start := b.db.recorder.start(opBatch)
	defer func() { b.db.recorder.stop(opBatch, start) }()
	writes, err := b.writes.tree(b.db.merger)
	if err == nil {
		err = b.db.tree.Commit(writes, nil)
	}
	if err != nil {
		return b.db.translate(err)
	}
	b.db.recorder.wrote(b.size)
	return nil
}

// add takes over op.
func (b *Batch) add(op Op) {
	b.ops = append(b.ops, op)
	b.size += len(op.Key) + len(op.Value) + len(op.End)
}
