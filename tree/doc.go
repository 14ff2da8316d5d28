// Package tree is a B-link tree of keys and values whose nodes are pages of a
// package pagecache, and the Materializer that folds them.
//
// An update of a key is a delta on its leaf: one compare-and-swap and one small
// log record, whatever the size of the leaf. Reading walks from the root over
// nodes whose bytes are the same in memory and in the log; it takes no lock,
// waits for nobody and allocates nothing. Iterators see one moment. Batches are
// seen, and survive a crash, whole or not at all.
//
// Commit writes to any number of keys and ranges at one moment, if what a
// transaction has read is still so. A Moment is a read snapshot.
//
// Nodes that deletes have thinned are joined with their neighbours.
//
// It does not do: several trees in one store. The formats have room for that and
// refuse what they do not know.
//
// # Where to begin
//
// format.go has the layouts. node.go, search.go and delta.go read them; merge.go
// folds deltas into a node; build.go writes one. descend.go finds a leaf,
// read.go, update.go and blind.go are the operations on one key, split.go, cut.go
// and finish.go how the tree grows, join.go and thin.go how it shrinks, value.go
// the large values, draft.go, stream.go and reader.go how they are written and
// read part by part; writes.go,
// commit.go and validate.go are the commit of many keys, moment.go and iterator.go
// what their names say; shrink.go gives back what nobody sees any more, and
// check.go says what must always hold.
//
// # Invariants
//
//	T1  A node's bytes never change. A page changes by a delta or as a whole, by
//	    the page cache's compare-and-swap. Every node is as node.validate says.
//	T2  On every level the nodes' fences tile the key space: a node's high fence is
//	    its right sibling's low fence. Who looks for a key in a node left of it
//	    finds it by going right. A parent never names a child whose low fence is not
//	    the separator. It lacks a child only while the split that makes the child
//	    holds the parent's writer bit, and never after a crash: a split and its
//	    separators are one record. Blind updates rest on that (blind.go).
//	T3  A node's low fence never changes. Its high fence falls when it is split, and
//	    rises when its right neighbours are joined with it, which frees them (join.go).
//	    So within a guard a page that was on the way to a key leads there, by going
//	    right, or is free, and then the way begins at the root again. A page that was
//	    seen under an earlier guard may be another one by now: it is a hint, and is
//	    looked at before it is used.
//	T4  A version that somebody was shown has a stamp. A merge drops a version only
//	    if a newer one is seen by every open moment that sees it, and every later
//	    moment; it drops a stamp only if every open and later moment is at or
//	    above it. Equal stamps: the later in the chain is the newer.
//	    Operands are folded in a merge onto a known base or absence only, up to the
//	    newest of each span that no moment divides, and the result has that one's
//	    stamp. From the first that cannot be folded on they stay, in order.
//	T5  The root is the page that was written as root with the highest generation.
//	    Its flag stands in the base that is replaced when the root is split, and
//	    only there; the same record makes the next root. Tree.root only moves to
//	    higher generations, and any root it ever named leads everywhere but to
//	    levels above it.
//	T6  Writer bits are taken upwards: leaves in key order, then a parent; or leaves,
//	    then a draft's pages, then the page of drafts. Who holds one waits for
//	    nothing but the next: no page is loaded and no user code runs.
//	T7  An entry with a chunk list and its chunk pages are written in one record, or
//	    the pages before, as a draft (T9). The pages are freed in the record that
//	    drops the entry's last version, so a chunk page that is gone, or at another
//	    version, means that the entry has been replaced.
//	T8  A split makes progress: each piece has fewer keys than the node had, and an
//	    inner piece at least innerChildrenMin children. A leaf of one key is not
//	    split, whatever its size, but to make its fences as narrow as can be.
//	T9  A chunk page is named either by entries or by one draft, and a draft by the
//	    page of drafts, at every instant and after every crash. An Open that may
//	    write frees what the drafts that it finds have (draft.go).
//
// # Concurrency
//
// All methods of Tree may be called by many goroutines at once; an Iterator
// belongs to one. Linearization points: a read's is the View of the leaf; a
// write's the compare-and-swap of the leaf's slot, under the writer bit after a
// few lost ones; a batch's the moment its commit cell says ready; a Scan's the
// tick of the clock in OpenMoment. A split changes no key's value: its point is
// the left page's compare-and-swap.
//
// A delete that finds its key absent and a failed CompareAndSwap write nothing;
// with Durability Sync they return once all they can have read is durable. A
// delete on a leaf that is not in memory writes its tombstone unseen. Reads may
// return what is not durable yet.
package tree
