package main

import "errors"

// A kind is a store that can be opened.
type kind struct {
	name string
	// batches says that set, for goroutines that write at the same time, goes
	// through what the store offers to gather them (bbolt's DB.Batch).
	batches bool
	cgo     bool
	// transactions says that update is serializable.
	transactions bool
	// replays says that opening after a kill replays a log.
	replays bool
	open    func(s settings) (engine, error)
}

// kinds are all that this program was built with. pulk comes first.
var kinds = []kind{
	{name: "pulk", open: openPulk, transactions: true, replays: true},
	{name: "bbolt", open: openBolt, transactions: true},
	{name: "bbolt-batch", open: openBolt, transactions: true, batches: true},
	{name: "pebble", open: openPebble, replays: true},
	{name: "badger", open: openBadger, transactions: true, replays: true},
}

func kindOf(name string) (kind, bool) {
	for _, k := range kinds {
		if k.name == name {
			return k, true
		}
	}
	return kind{}, false
}

// settings are what all stores are opened with.
type settings struct {
	dir   string
	cache int64 // bytes of memory to cache with
	sync  bool  // a write returns when it is on disk
	cold  bool  // the data are larger than memory
	// counted says that what is written will be asked for.
	counted bool
	// together says that writes of several goroutines are to be gathered, see kind.
	together bool
}

// An engine is an open store. Its methods may be called by many goroutines at once.
type engine interface {
	// worker returns what one goroutine uses.
	worker() worker
	close() error
}

// A mapper is an engine that writes through mappings, which the system does not
// count.
type mapper interface {
	mappedBytes() int64 // written so far
}

// A worker is used by one goroutine. Keys and values that it is given may be
// reused when a call returns.
type worker interface {
	view
	set(key, value []byte) error
	delete(key []byte) error
	// batch writes n rows at once, atomically. row gives each of them; what it
	// returned is valid until its next call.
	batch(n int, row func(i int) (key, value []byte)) error
	// update runs fn in a transaction that can read and write, again if it
	// conflicts with another.
	update(fn func(tx transaction) error) error
	// snapshot returns the store as it is now, for this goroutine.
	snapshot() (snapshot, error)
}

// A view reads. What is passed to use is valid during the call.
type view interface {
	get(key []byte, use func(value []byte) error) (found bool, err error)
	// scan reads up to n rows with keys that are not less than from, or, backwards,
	// less than from. A nil from is an open end.
	scan(from []byte, backwards bool, n int, use func(key, value []byte) error) error
}

type snapshot interface {
	view
	close() error
}

type transaction interface {
	get(key []byte, use func(value []byte) error) (found bool, err error)
	set(key, value []byte) error
}

// errUnsupported: the store has nothing like it.
var errUnsupported = errors.New("not supported")
