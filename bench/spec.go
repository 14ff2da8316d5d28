package main

import "time"

// A spec says what one process is to run. It passes through JSON.
type spec struct {
	Kind       string
	Workload   string
	Goroutines int
	Keys       int
	Value      int
	Seconds    float64
	Dir        string
	Seed       uint64
	Profile    string `json:",omitempty"` // directory for profiles
}

// A result is what came of it.
type result struct {
	Kind       string
	Workload   string
	Goroutines int
	Keys       int
	Round      int

	Unsupported bool    `json:",omitempty"`
	Cut         bool    `json:",omitempty"` // it ended before all was done
	Ops         int     // operations
	Seconds     float64 // they took
	Rate        float64 // operations per second; 1000/Ms of workloads that are one operation

	P50, P99, P999 time.Duration // of an operation
	Allocs         float64       // per operation
	AllocBytes     float64       // per operation
	CPU            time.Duration // per operation, of the whole process
	PeakRSS        int64         // bytes
	Space          float64       // files over live data, 0 if not measured
	Written        float64       // bytes per user byte, 0 if not measured
	Extra          string        `json:",omitempty"`
}
