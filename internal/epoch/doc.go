// Package epoch says when something that readers may still hold can be reused:
// arena memory, a PID, a log segment. Readers pin a guard while they look;
// whoever takes an item out of sight retires it; it is reclaimed when every
// guard that could have seen it is gone.
//
// # What it guarantees
//
//	E1  While the domain's epoch is x, every pinned guard is at x or x-1.
//	E2  An item is handed to reclaim, once, and only when no guard is left
//	    that was pinned before the call of Retire read the epoch.
//	E3  Pin, Unpin and Retire take no lock and wait for nobody.
//
// # What it does not do
//
// It does not bound the memory that waits for a guard held too long: hold none
// across I/O, waits or user code.
//
// # Why E1 holds
//
// The epoch is one number E. counts[i][x mod 4] counts the guards of stripe i
// at x. Pin loads E = x, adds one, and loads E again: only if it is still x has
// it pinned at x; else it takes the one back and starts again. E goes from x to
// x+1 only after every stripe's count for x-1 was read as 0 since E became x.
// No guard is pinned at x-1 any more once E is x, so a count that was 0 then
// covers no guard now: what it may still hold is the passing one of a Pin that
// will fail. Counts of x-1 and x+3 share a word, but E has never been x+3 and
// so no guard is there. After the step, guards are at x or x+1: E1.
//
// # Why E2 holds
//
// Retire loads E = x and puts the item into a bag of x. The load is its
// linearization point. A guard pinned before it is at x or less (its second
// load of E came earlier). The bags of x are emptied when E is x+2 or more,
// when by E1 all of these are gone. A guard pinned after the load can be at
// x+1 and outlive the item; that is harmless because Retire requires that
// nothing leads to the item any more when it is called.
//
// Whoever empties the bags of x needs every push to be complete: the retiring
// goroutine is itself pinned, at some p <= x, so by E1 the epoch is at most
// p+1 <= x+1 until it unpins. So when E is x+2 no push to x is under way, one
// that has taken a place in a bag but not yet stored the item included, and the
// store is visible because the unpinning happened before the count was read.
// Pushes to the epoch that uses the same bags next, x+4, come later than the
// step to x+3, which waits for the emptying: one goroutine at a time steps and
// empties.
//
// Read first: domain.go.
package epoch
