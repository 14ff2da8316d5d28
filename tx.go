package db

import (
	"sync/atomic"

	"github.com/pulkdb/db/tree"
)

// A Tx is a transaction. It reads the store as it stood when it began, with its
// own writes on top, and its writes appear at one moment, by Commit, or never.
//
// Transactions that write are serializable: their effect, and that of all
// other writes, is as if they had run one after another. Nothing is locked while
// they run. Commit fails with ErrConflict if anything that the transaction has
// read has been written to since it began: a key that it found or did not find,
// or a key in a range that it scanned, as far as it did; the transaction can be
// tried again then, and DB.Update does so. Of transactions that are in
// conflict with each other one at least goes through. Those that only write
// never conflict, nor do those that only read.
//
// A Tx that writes holds its writes in memory, and for each key or range that it
// has read the bounds; reads that are neighbours are joined, so a scan takes the
// memory of one range. There is no other limit.
//
// A Tx belongs to one goroutine at a time, with its iterators. It must be
// finished by Commit or Rollback: while it is open, the store keeps the versions
// that it can see. Any number may be open at once, in one goroutine too: none
// waits for another.
type Tx struct {
	// Immutable.
	db       *DB
	moment   *tree.Moment
	writable bool
	managed  bool // View or Update finishes it

	// Owned by the goroutine that uses the Tx.
	writes    writeSet
	reads     readSet
	copies    copier
	iterators map[*Iterator]struct{} // that are open
	end       []byte                 // buffer

	done atomic.Bool
}

// Begin begins a transaction. It waits for nobody. Errors: ErrClosed, and
// ErrReadOnly for a writable one in a store that was opened with
// Options.ReadOnly.
//
// Prefer View and Update, which finish what they begin.
func (d *DB) Begin(writable bool) (*Tx, error) {
	return d.begin(writable, false)
}

func (d *DB) begin(writable, managed bool) (*Tx, error) {
	switch {
	case d.closed.Load():
		return nil, ErrClosed
	case writable && d.readOnly:
		return nil, ErrReadOnly
	}
	tx := &Tx{db: d, moment: d.tree.OpenMoment(), writable: writable, managed: managed}
	if writable {
		tx.writes, tx.reads = newWriteSet(), newReadSet()
	}
	return tx, nil
}

// Get returns the value of key, or ErrNotFound. The caller owns it.
func (tx *Tx) Get(key []byte) ([]byte, error) { return tx.GetTo(nil, key) }

// GetTo appends the value of key to dst and returns the extended slice, or dst as
// it was with an error.
func (tx *Tx) GetTo(dst, key []byte) ([]byte, error) {
	if err := tx.checkRead(key); err != nil {
		return dst, err
	}
	w, erased := tx.own(key)
	switch {
	case w.kind == 0 && erased:
		return dst, ErrNotFound
	case w.kind == 0:
		tx.noteRead(key)
		return tx.db.getAt(tx.moment, dst, key)
	}
	value, err := tx.fold(&w, erased)
	if err != nil {
		return dst, err
	}
	if value == nil {
		return dst, ErrNotFound
	}
	if dst = append(dst, value...); dst == nil {
		dst = []byte{} // an empty value is a value
	}
	return dst, nil
}

// Has reports whether key is present.
func (tx *Tx) Has(key []byte) (bool, error) {
	if err := tx.checkRead(key); err != nil {
		return false, err
	}
	w, erased := tx.own(key)
	switch {
	case w.kind == 0 && erased:
		return false, nil
	case w.kind == 0:
		tx.noteRead(key)
		return tx.db.hasAt(tx.moment, key)
	}
	value, err := tx.fold(&w, erased)
	return value != nil, err
}

// own returns what the transaction has written to key, see writeSet.get.
func (tx *Tx) own(key []byte) (w pointWrite, erased bool) {
	if !tx.writable {
		return w, false
	}
	return tx.writes.get(key)
}

// fold returns what w makes of what is stored, or of nothing if that is erased;
// nil means absent.
func (tx *Tx) fold(w *pointWrite, erased bool) ([]byte, error) {
	var stored []byte
	if w.kind == OpMerge && !erased {
		tx.noteRead(w.key)
		var err error
		if stored, err = tx.db.getAt(tx.moment, nil, w.key); err != nil && err != ErrNotFound {
			return nil, err
		}
	}
	return w.fold(tx.db.merger, stored)
}

// noteRead notes that key was read.
func (tx *Tx) noteRead(key []byte) {
	if tx.writable {
		tx.end = append(append(tx.end[:0], key...), 0)
		tx.reads.add(key, tx.end)
	}
}

// Set stores value under key.
func (tx *Tx) Set(key, value []byte) error {
	if err := tx.checkWrite(key, value); err != nil {
		return err
	}
	tx.writes.set(tx.copies.copy(key), tx.copies.copy(value))
	return nil
}

// Delete removes key. That key is absent is no error, and is not looked at.
func (tx *Tx) Delete(key []byte) error {
	if err := tx.checkWrite(key, nil); err != nil {
		return err
	}
	tx.writes.delete(tx.copies.copy(key))
	return nil
}

// DeleteRange removes all keys in [lo, hi): those that the transaction has
// written, and those that the store has when it is committed, also if they came
// after it began. The bounds mean what they mean for Scan.
func (tx *Tx) DeleteRange(lo, hi []byte) error {
	if err := tx.checkWrite(nil, nil); err != nil {
		return err
	}
	tx.writes.erase(span{tx.copies.copy(lo), tx.copies.copyEnd(hi)})
	return nil
}

// Merge adds operand to what key has, as DB.Merge does, and does not count as a
// read of it. Operands on a key that the transaction has set or deleted before
// are folded by Commit, which fails if Options.Merger does.
func (tx *Tx) Merge(key, operand []byte) error {
	if err := tx.checkWrite(key, operand); err != nil {
		return err
	}
	if tx.db.merger == nil {
		return ErrNoMerger
	}
	tx.writes.merge(tx.copies.copy(key), tx.copies.copy(operand))
	return nil
}

// Scan returns an iterator over the keys in [lo, hi): those of the transaction's
// moment, and what it has written by now. Later writes do not show. The bounds
// mean what they mean for DB.Scan. The iterator ends with the transaction.
func (tx *Tx) Scan(lo, hi []byte) *Iterator {
	if err := tx.check(); err != nil {
		return &Iterator{db: tx.db, tx: tx, err: err}
	}
	start := tx.db.recorder.start(opScan)
	it := &Iterator{db: tx.db, tx: tx}
	if tx.writable {
		it.rows = newOverlay(tx, lo, hi)
	} else {
		it.rows = tx.db.tree.ScanAt(tx.moment, lo, hi)
	}
	tx.db.recorder.stop(opScan, start)
	if tx.iterators == nil {
		tx.iterators = make(map[*Iterator]struct{})
	}
	tx.iterators[it] = struct{}{}
	return it
}

// ScanPrefix returns an iterator over the keys that begin with prefix, as Scan
// does for a range.
func (tx *Tx) ScanPrefix(prefix []byte) *Iterator { return tx.Scan(prefix, prefixEnd(prefix)) }

// Commit makes the writes visible, all at one moment, and finishes the
// transaction, whatever it returns. When it returns nil, they are as durable as
// a single Set would be. After ErrFailed readers may see all of them, and a
// later Open finds all of them or nothing; after any other error nothing was
// written. Without writes it always returns nil.
//
// Errors: ErrConflict, see Tx; a *MergeError if operands on a value of the
// transaction itself cannot be folded; ErrTxDone; in the function of View or
// Update ErrTxManaged; those of Set.
func (tx *Tx) Commit() error {
	if tx.managed && !tx.done.Load() {
		return ErrTxManaged
	}
	return tx.commit()
}

func (tx *Tx) commit() error {
	if tx.done.Load() {
		return ErrTxDone
	}
	defer tx.finish()
	if tx.db.closed.Load() {
		return ErrClosed
	}
	if !tx.writable || tx.writes.empty() {
		return nil
	}
	start := tx.db.recorder.start(opCommit)
	defer func() { tx.db.recorder.stop(opCommit, start) }()
	writes, err := tx.writes.tree(tx.db.merger)
	if err == nil {
		err = tx.db.tree.Commit(writes, tx.reads.tree(tx.moment))
	}
	if err != nil {
		return tx.db.translate(err)
	}
	tx.db.recorder.wrote(bytesOf(writes))
	return nil
}

// Rollback finishes the transaction without a trace. After Commit or Rollback it
// does nothing and returns nil, so that it can be deferred. In the function of
// View or Update it returns ErrTxManaged, and after the store's Close ErrClosed.
func (tx *Tx) Rollback() error {
	switch {
	case tx.done.Load():
		return nil
	case tx.managed:
		return ErrTxManaged
	}
	tx.finish()
	if tx.db.closed.Load() {
		return ErrClosed
	}
	return nil
}

// finish gives up what the transaction holds, once.
func (tx *Tx) finish() {
	if tx.done.Swap(true) {
		return
	}
	for it := range tx.iterators {
		_ = it.Close()
	}
	tx.moment.Close()
	tx.writes, tx.reads, tx.copies, tx.iterators = writeSet{}, readSet{}, copier{}, nil
}

// check says why the transaction cannot be used, if it cannot.
func (tx *Tx) check() error {
	if tx.done.Load() {
		return ErrTxDone
	}
	if tx.db.closed.Load() {
		return ErrClosed
	}
	return nil
}

func (tx *Tx) checkRead(key []byte) error {
	if err := tx.check(); err != nil {
		return err
	}
	return checkKey(key)
}

func (tx *Tx) checkWrite(key, value []byte) error {
	if err := tx.check(); err != nil {
		return err
	}
	if !tx.writable {
		return ErrReadOnly
	}
	return tx.db.checkWrite(key, value)
}
