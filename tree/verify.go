package tree

import (
	"bytes"
	"context"
	"fmt"

	"github.com/pulkdb/db/pagecache"
)

// Verify checks the whole store and returns the first thing that is wrong: what
// pagecache.Verify finds; that on every level of the tree the fences tile the key space,
// siblings follow one another, keys are in order and within their fences, every child
// begins at its separator, and every chunk of a large value is as its entry says; and
// that each page in use is named by something. Reads and writes go on meanwhile; joins
// wait. The table of one level's separators is held in memory. progress, which may be nil,
// is called often, by one goroutine. Errors: as of pagecache.Verify.
func (t *Tree) Verify(ctx context.Context, progress func(done, total int64)) error {
	if t.closed.Load() {
		return ErrClosed
	}
	const pageWeight = 1 << 10 // bytes that a page's part of the walks counts for
	done, total := int64(0), t.cache.VerifyBytes()+int64(t.cache.MaxPID())*pageWeight
	step := func(bytes int64) {
		if done += bytes; progress != nil {
			progress(done, max(total, done))
		}
	}
	if err := t.cache.Verify(ctx, step); err != nil {
		return err
	}
	lost, err := t.unnamed(ctx, func() { step(pageWeight) })
	for try := 0; try < unnamedTries && err == nil && len(lost) > 0; try++ {
		var again map[PID]uint64
		again, err = t.unnamed(ctx, func() {})
		for pid, version := range lost {
			if v, ok := again[pid]; !ok || v != version {
				delete(lost, pid)
			}
		}
	}
	if err != nil {
		return err
	}
	for pid := range lost {
		return fmt.Errorf("%w: nothing names page %d, nor %d others that are in use", ErrCorrupt, pid, len(lost)-1)
	}
	return nil
}

// unnamedTries is how often pages that nothing names are looked for again: while
// writers go on a page may be named by what was looked at already.
const unnamedTries = 3

// Check is Verify of the tree alone.
func (t *Tree) Check() error {
	_, err := t.unnamed(context.Background(), func() {})
	return err
}

// A census walks the tree and notes the pages that it meets.
type census struct {
	t    *Tree
	ctx  context.Context
	step func() // called for each node
	seen map[PID]struct{}
}

// unnamed walks the whole tree, and returns the pages in use that nothing names, with
// their versions.
func (t *Tree) unnamed(ctx context.Context, step func()) (map[PID]uint64, error) {
	if err := t.readable(); err != nil {
		if err == ErrNotFound {
			err = nil
		}
		return nil, err
	}
	x := &census{t: t, ctx: ctx, step: step, seen: map[PID]struct{}{}}
	before := t.cache.MaxPID()
	if err := x.drafts(); err != nil {
		return nil, err
	}
	if err := x.walk(); err != nil {
		return nil, err
	}
	if err := x.drafts(); err != nil {
		return nil, err
	}
	lost := map[PID]uint64{}
	for pid := PID(1); pid <= before; pid++ {
		if _, ok := x.seen[pid]; ok {
			continue
		}
		if version, ok := t.cache.InUse(pid); ok {
			lost[pid] = version
		}
	}
	return lost, nil
}

// drafts notes the pages of large values that are being written. What is freed
// meanwhile was none of them any more.
func (x *census) drafts() error {
	page := PID(x.t.drafts.page.Load())
	if page == 0 {
		return nil
	}
	x.seen[page] = struct{}{}
	names, err := x.t.readList(page, kindDrafts)
	if err != nil {
		return err
	}
	for _, name := range names {
		x.seen[name.pid] = struct{}{}
		chunks, err := x.t.readList(name.pid, kindDraft)
		if version, ok := x.t.cache.InUse(name.pid); err != nil && ok && version == name.version {
			return err
		}
		for _, c := range chunks {
			x.seen[c.pid] = struct{}{}
		}
	}
	return nil
}

// walk goes down the levels.
func (x *census) walk() error {
	x.t.joiner.mu.Lock()
	defer x.t.joiner.mu.Unlock()
	children := map[PID][]byte{}
	pid := x.t.root.Load().pid
	n, err := x.t.merged(pid)
	if err != nil {
		return err
	}
	for level := n.level(); ; level-- {
		leftmost, next, err := x.checkLevel(pid, level, children)
		if err != nil || level == 0 {
			return err
		}
		pid, children = leftmost, next
	}
}

// checkLevel walks a level from its leftmost page along the siblings. children
// are those that the level above names, by PID; a page that it does not name is
// one whose separator is not posted. It returns the children of this level.
func (x *census) checkLevel(pid PID, level int, children map[PID][]byte) (leftmost PID, next map[PID][]byte, err error) {
	next = map[PID][]byte{}
	found := 0
	lo := []byte{}
	for pid != 0 {
		if err := x.ctx.Err(); err != nil {
			return 0, nil, err
		}
		x.seen[pid] = struct{}{}
		x.step()
		n, err := x.t.merged(pid)
		if err != nil {
			return 0, nil, err
		}
		if n.level() != level || !bytes.Equal(n.lo(), lo) {
			return 0, nil, fmt.Errorf("%w: page %d at level %d begins at %q, want level %d, %q", ErrCorrupt, pid, n.level(), n.lo(), level, lo)
		}
		if sep, ok := children[pid]; ok {
			if !bytes.Equal(sep, n.lo()) {
				return 0, nil, fmt.Errorf("%w: page %d begins at %q, its separator is %q", ErrCorrupt, pid, n.lo(), sep)
			}
			found++
		}
		if leftmost == 0 && level > 0 {
			leftmost = n.child(0)
		}
		if err := x.checkEntries(n, next); err != nil {
			return 0, nil, fmt.Errorf("page %d: %w", pid, err)
		}
		pid, lo = n.right(), bytes.Clone(n.hi())
	}
	if found < len(children) {
		return 0, nil, fmt.Errorf("%w: %d of %d children at level %d are not among the siblings", ErrCorrupt, len(children)-found, len(children), level)
	}
	return leftmost, next, nil
}

// checkEntries checks the node, collects an inner node's children and reads a
// leaf's large values.
func (x *census) checkEntries(n node, children map[PID][]byte) error {
	if err := n.validate(); err != nil {
		return err
	}
	for i := range n.count() {
		e := n.entry(i)
		switch {
		case !n.isLeaf():
			if children[childOf(e.value)] != nil {
				return fmt.Errorf("%w: page %d is a child twice", ErrCorrupt, childOf(e.value))
			}
			children[childOf(e.value)] = n.appendKey([]byte{}, i)
		case e.flags&entryIndirect == 0:
		default:
			x.nameChunks(e.value)
			if i+1 != n.group(i) || e.flags&entryOlder != 0 {
				continue
			}
			if err := x.t.checkChunks(n.appendKey(nil, i), e.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// nameChunks notes the chunks of a list, which has been validated.
func (x *census) nameChunks(list []byte) {
	r, ok := readChunks(list)
	for ok {
		var c chunk
		if c, ok = r.next(); ok {
			x.seen[c.pid] = struct{}{}
		}
	}
}

// checkChunks reads a large value, unless it has been replaced meanwhile.
func (t *Tree) checkChunks(key, list []byte) error {
	_, current, err := t.appendChunked(nil, list)
	if err != nil || current {
		return err
	}
	_, now, err := t.current(key)
	if err == nil && bytes.Equal(now.value, list) {
		err = fmt.Errorf("%w: value of %q has lost a chunk", ErrCorrupt, key)
	}
	return err
}

// merged returns the page as a private node with all its versions.
func (t *Tree) merged(pid PID) (node, error) {
	for {
		n, err := t.tryMerged(pid)
		if n != nil || err != nil {
			return n, err
		}
		if err := t.cache.LoadToScan(pid); err != nil {
			return nil, err
		}
	}
}

func (t *Tree) tryMerged(pid PID) (node, error) {
	g := t.cache.Pin()
	defer g.Unpin()
	v, err := t.cache.Peek(g, pid)
	if err != nil {
		return nil, t.viewError(pid, err)
	}
	m := newMerger()
	defer m.release()
	return m.mergeView(nil, v, folder{})
}

// viewError gives ErrGone its meaning for a page that another one refers to.
func (t *Tree) viewError(pid PID, err error) error {
	if err == pagecache.ErrGone {
		return fmt.Errorf("%w: page %d is referred to and free", ErrCorrupt, pid)
	}
	return err
}
