package tree

import "bytes"

// search returns the index of the first entry whose key is at least key, and
// whether it is equal. With versions, that is the newest one.
func (n node) search(key []byte) (i int, equal bool) {
	p := n.prefixBytes()
	prefix := n[headerBytes : headerBytes+p]
	if len(key) < p || string(key[:p]) != string(prefix) {
		if bytes.Compare(key, prefix) < 0 {
			return 0, false
		}
		return n.count(), false
	}
	suffix := key[p:]
	x := headOf(suffix)
	at, count := headerBytes+pad8(p), n.count()
	heads := n[at : at+8*count]
	i = searchHeads(heads, x)
	if i == count || le.Uint64(heads[8*i:]) != x {
		return i, false
	}
	return n.searchTies(i, x, suffix)
}

// searchHeads returns how many heads are below x. The loop has no branch that
// depends on the data.
func searchHeads(heads []byte, x uint64) int {
	count := len(heads) / 8
	if count == 0 {
		return 0
	}
	rest := heads
	for count > 1 {
		half := count >> 1
		upper := rest[8*half:]
		if le.Uint64(rest[8*half-8:8*half]) >= x {
			upper = rest
		}
		rest = upper
		count -= half
	}
	i := (len(heads) - len(rest)) / 8
	if le.Uint64(rest) < x {
		i++
	}
	return i
}

// searchTies continues a search at the first entry whose head is x.
func (n node) searchTies(i int, x uint64, suffix []byte) (int, bool) {
	c := n.compareTie(i, suffix)
	if c >= 0 {
		return i, c == 0
	}
	end := n.count()
	if x != ^uint64(0) {
		at := n.headsAt()
		end = i + searchHeads(n[at+8*i:at+8*end], x+1)
	}
	lo, hi := i+1, end
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if n.compareTie(mid, suffix) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < end && n.compareTie(lo, suffix) == 0
}

// compareTie compares entry i with suffix. REQUIRES: their heads are equal.
func (n node) compareTie(i int, suffix []byte) int {
	b := n[n.offset(i):]
	size, at := uvarint(b[1:])
	if size <= 8 || len(suffix) <= 8 {
		// One is a prefix of the other but for zeros, so the shorter is less.
		return size - len(suffix)
	}
	at++
	if b[0]&entryStamp != 0 {
		at += 8
	}
	return bytes.Compare(b[at:at+size-8], suffix[8:])
}

// floor returns the last entry of an inner node whose key is at most key, or
// below it if strict. REQUIRES: there is one.
func (n node) floor(key []byte, strict bool) int {
	i, equal := n.search(key)
	if equal && !strict {
		return i
	}
	return max(i-1, 0)
}

// group returns the end of the versions that start at entry i.
func (n node) group(i int) int {
	count := n.count()
	for i++; i < count && n.entryFlags(i)&entryOlder != 0; i++ {
	}
	return i
}

// readBase returns the newest version of key in a leaf that a reader at the
// moment sees.
func readBase(n node, key []byte, moment uint64) (entry, bool) {
	i, equal := n.search(key)
	if !equal {
		return entry{}, false
	}
	e := n.entry(i)
	if e.stamp > moment {
		for end := n.group(i); e.stamp > moment; e = n.entry(i) {
			if i++; i == end {
				return entry{}, false
			}
		}
	}
	return e, e.flags&entryTombstone == 0
}
