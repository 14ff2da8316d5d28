package tree

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/pagecache"
)

// A draft is a large value that is being written part by part, which may take
// minutes: no record, guard or writer bit is held from one part to the next. What
// is written before its entry must not be lost track of if the writer fails or the
// process dies. So there is a page of drafts, which recovery knows, and a page for
// each draft with what it has by now:
//
//	page of drafts -> page of a draft -> chunks
//
//	begin    one record: the draft's page, empty, and its name in the page of drafts
//	part     one record per chunk: the chunk's page and its name in the draft's page
//	end      one record: the entry on the leaf, which names the chunks; the draft's
//	         page is freed, its name removed
//	abandon  one record: the chunks and the draft's page are freed, its name removed
//
// Each record is whole or not there, and they are in the log in this order. So at
// every instant, and after every crash, a chunk is named by an entry or by a draft,
// never by both, and a draft by the page of drafts (T9). An Open that may write
// abandons the drafts that it finds: their writers are gone.
//
// Writer bits: a draft's page and its chunks are acquired by its one writer, the
// page of drafts by all of them, each after all others it needs, leaves included;
// who holds it waits for no other (T6). All may be evicted meanwhile and are
// written to as they are.
type draft struct {
	t      *Tree
	name   chunk   // the draft's page as it was made
	chunks []chunk // its parts, in order
	shed   []PID   // those that are to go from memory when they can
}

// shedMax is how many chunks wait for that; the evictor finds the others.
const shedMax = 64

// drafts says where the page of drafts is.
type drafts struct {
	page atomic.Uint64 // PID; 0: there is none yet
	mu   sync.Mutex    // held while it is made
}

// draftsTree is under which the page of drafts is found at Open: trees have
// numbers of 32 bits.
const draftsTree = uint64(1) << 32

// draftsPage returns the page of drafts, and makes it if there is none.
func (t *Tree) draftsPage() (PID, error) {
	if pid := t.drafts.page.Load(); pid != 0 {
		return PID(pid), nil
	}
	t.drafts.mu.Lock()
	defer t.drafts.mu.Unlock()
	if pid := t.drafts.page.Load(); pid != 0 {
		return PID(pid), nil
	}
	u := t.cache.Begin()
	pid, err := u.Allocate(appendList(nil, kindDrafts, nil))
	if err != nil {
		u.Discard()
		return 0, err
	}
	if _, err := u.Commit(); err != nil {
		return 0, err
	}
	t.drafts.page.Store(uint64(pid))
	return pid, nil
}

// beginDraft begins a draft, which must be ended or abandoned.
func (t *Tree) beginDraft() (*draft, error) {
	all, err := t.draftsPage()
	if err != nil {
		return nil, err
	}
	u := t.cache.Begin()
	begun := false
	defer func() {
		if !begun {
			u.Discard()
		}
	}()
	pid, err := u.Allocate(appendList(nil, kindDraft, nil))
	if err != nil {
		return nil, err
	}
	name := chunk{pid, u.FreshVersion(pid)}
	v, err := u.Acquire(all)
	if err != nil {
		return nil, t.viewError(all, err)
	}
	u.Append(v, appendListChange(nil, kindListAdd, name), 0)
	begun = true
	if _, err := u.Commit(); err != nil {
		return nil, err
	}
	t.tendList(all)
	return &draft{t: t, name: name}, nil
}

// add adds a part: a chunk page.
func (d *draft) add(page []byte) error {
	u := d.t.cache.Begin()
	added := false
	defer func() {
		if !added {
			u.Discard()
		}
	}()
	pid, err := u.Allocate(page)
	if err != nil {
		return err
	}
	c := chunk{pid, u.FreshVersion(pid)}
	v, err := u.Acquire(d.name.pid)
	if err != nil {
		return d.t.viewError(d.name.pid, err)
	}
	u.Append(v, appendListChange(nil, kindListAdd, c), 0)
	added = true
	if _, err := u.Commit(); err != nil {
		return err
	}
	d.chunks = append(d.chunks, c)
	if d.shed = append(d.shed, c.pid); len(d.shed) > shedMax {
		d.shed = d.shed[1:]
	}
	d.shed = slices.DeleteFunc(d.shed, d.t.cache.Shed)
	d.t.tendList(d.name.pid)
	return nil
}

// end has u end the draft: with what else u does, its chunks get their entry.
func (d *draft) end(u *pagecache.Update) error {
	v, err := u.Acquire(d.name.pid)
	if err != nil {
		return d.t.viewError(d.name.pid, err)
	}
	u.Free(v)
	all := PID(d.t.drafts.page.Load())
	if v, err = u.Acquire(all); err != nil {
		return d.t.viewError(all, err)
	}
	u.Append(v, appendListChange(nil, kindListRemove, d.name), 0)
	return nil
}

// abandon frees what the draft has.
func (d *draft) abandon() error {
	u := d.t.cache.Begin()
	abandoned := false
	defer func() {
		if !abandoned {
			u.Discard()
		}
	}()
	chunks := slices.SortedFunc(slices.Values(d.chunks), func(a, b chunk) int { return cmp.Compare(a.pid, b.pid) })
	for _, c := range chunks {
		v, err := u.Acquire(c.pid)
		switch {
		case err == nil && v.Version() == c.version:
			u.Free(v)
		case err != nil && err != pagecache.ErrGone:
			return err
		}
	}
	if err := d.end(u); err != nil {
		return err
	}
	abandoned = true
	_, err := u.Commit()
	if err == nil {
		d.t.tendList(PID(d.t.drafts.page.Load()))
	}
	return err
}

// abandonDrafts abandons what writers have left behind that are gone. A draft that
// cannot be read stays: it costs space and harms nobody.
func (t *Tree) abandonDrafts() {
	r, ok := t.cache.Recovered(draftsTree)
	if !ok {
		return
	}
	t.drafts.page.Store(uint64(r.PID))
	if t.options.Cache.ReadOnly {
		return
	}
	names, err := t.readList(r.PID, kindDrafts)
	for _, name := range names {
		d := draft{t: t, name: name}
		var readErr error
		if d.chunks, readErr = t.readList(name.pid, kindDraft); readErr == nil {
			readErr = d.abandon()
		}
		err = errors.Join(err, readErr)
	}
	if err != nil {
		t.metrics.tendErrors.Add(1)
		if l := t.options.Cache.Logger; l != nil {
			l.Error("tree: freeing the parts of values whose writers are gone failed", "error", err)
		}
	}
}

// A list page names pages. Integers are little-endian.
//
//	Offset  Size  Field    Meaning
//	     0     1  kind     kindDrafts or kindDraft
//	     1     7  -        0
//	     8   16n  pages    per page: PID, page version; in the order in which they were added
//
// and its deltas are
//
//	0     1  kind     kindListAdd or kindListRemove
//	1     8  pid      of the page that is added or removed
//	9     8  version  of that page
const (
	listHeaderBytes = 8
	listItemBytes   = 16
	listChangeBytes = 17
)

func isList(base []byte) bool {
	return len(base) > 0 && (base[0] == kindDrafts || base[0] == kindDraft)
}

// appendList appends the base of a list page.
func appendList(dst []byte, kind byte, items []chunk) []byte {
	dst = append(dst, kind, 0, 0, 0, 0, 0, 0, 0)
	for _, c := range items {
		dst = le.AppendUint64(dst, uint64(c.pid))
		dst = le.AppendUint64(dst, c.version)
	}
	return dst
}

// decodeList returns what a list page of the kind names.
func decodeList(base []byte, kind byte) ([]chunk, error) {
	if len(base) < listHeaderBytes || le.Uint64(base) != uint64(kind) || (len(base)-listHeaderBytes)%listItemBytes != 0 {
		return nil, fmt.Errorf("%w: not a list page of kind %d", ErrCorrupt, kind)
	}
	var items []chunk
	for b := base[listHeaderBytes:]; len(b) > 0; b = b[listItemBytes:] {
		items = append(items, chunk{PID(le.Uint64(b)), le.Uint64(b[8:])})
	}
	return items, nil
}

// appendListChange appends a delta of a list page.
func appendListChange(dst []byte, kind byte, c chunk) []byte {
	dst = append(dst, kind)
	dst = le.AppendUint64(dst, uint64(c.pid))
	return le.AppendUint64(dst, c.version)
}

// changeList makes a delta's change to the items.
func changeList(items []chunk, delta []byte) ([]chunk, error) {
	if len(delta) != listChangeBytes {
		return nil, fmt.Errorf("%w: change of a list page has %d bytes", ErrCorrupt, len(delta))
	}
	c := chunk{PID(le.Uint64(delta[1:])), le.Uint64(delta[9:])}
	switch delta[0] {
	case kindListAdd:
		return append(items, c), nil
	case kindListRemove:
		if i := slices.Index(items, c); i >= 0 {
			return slices.Delete(items, i, i+1), nil
		}
		return nil, fmt.Errorf("%w: page %d is not in the list", ErrCorrupt, c.pid)
	}
	return nil, fmt.Errorf("%w: change of a list page of kind %d", ErrCorrupt, delta[0])
}

// mergeList appends the base that the fragments of a list page amount to.
func mergeList(dst []byte, fragments []pagecache.Fragment) ([]byte, error) {
	kind := fragments[0].Data[0]
	items, err := decodeList(fragments[0].Data, kind)
	for _, f := range fragments[1:] {
		if err != nil {
			break
		}
		items, err = changeList(items, f.Data)
	}
	if err != nil {
		return nil, err
	}
	return appendList(dst, kind, items), nil
}

// readList returns what a list page of the kind names now.
func (t *Tree) readList(pid PID, kind byte) ([]chunk, error) {
	for {
		items, resident, err := t.tryReadList(pid, kind)
		if resident || err != nil {
			return items, err
		}
		if err := t.cache.Load(pid); err != nil {
			return nil, err
		}
	}
}

func (t *Tree) tryReadList(pid PID, kind byte) (items []chunk, resident bool, err error) {
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.View(g, pid)
	if err != nil || !v.Resident() {
		return nil, false, t.viewError(pid, err)
	}
	items, err = decodeList(v.Base(), kind)
	var deltas [][]byte
	for d := v.Newest(); d.Valid(); d = d.Older() {
		deltas = append(deltas, d.Data())
	}
	for i := len(deltas) - 1; i >= 0 && err == nil; i-- {
		items, err = changeList(items, deltas[i])
	}
	return items, true, err
}

// listDeltas: list pages are not read, but by an Open after a crash.
const listDeltas = 24

// tendList has a list page merged when a threshold is passed.
func (t *Tree) tendList(pid PID) {
	g := t.cache.Pin()
	v, err := t.cache.View(g, pid)
	due, absent := false, false
	if err == nil {
		_, places := v.LogBytes()
		absent = !v.Resident()
		due = absent && places >= t.cache.PlacesMax() || !absent && v.Deltas() >= max(listDeltas, t.options.Cache.MergeDeltas)
	}
	g.Unpin()
	if due && absent {
		err = t.cache.Load(pid)
	}
	if due && err == nil {
		err = t.maintain(pid)
	}
	if due && err != nil {
		t.metrics.tendErrors.Add(1)
	}
}
