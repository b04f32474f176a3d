// Package lockss holds the words that every part of the daemon shares: names of archival
// units and peers, the canonical order of URLs, nonces, digests, and the small text forms
// (intervals, rates, curves) in which they are configured.
//
//	AUID      org|example|press|PressPlugin&base_url~http%3A%2F%2Fpress%2Eexample%2F
//	PeerID    TCP:[192.0.2.7]:9729
//	interval  10 (ms), 10ms, 5s, 2m, 3h, 4d, 10w, 1y
//	rate      50/1d, unlimited
//	curve     [4d,1.0],[20d,0.1],[40d,0.01]
//
// Text that came from Java is a sequence of UTF-16 code units. It is kept in Go strings as
// UTF-8 in which a surrogate without its partner has its own three bytes (ED A0..BF xx), so
// that no text is lost on the way through; see [CompareURL].
//
// The package does no I/O, keeps no state and imports nothing of the project.
package lockss
