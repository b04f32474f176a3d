// Package peer knows the other nodes: which there are, when they were heard from, how much
// each agreed with us on each archival unit, whom to invite to a poll, and who may be served a
// repair.
//
// Words. A peer is known once it introduced itself, sent a message, was nominated, or is in the
// initial list. An agreement is what one measured of another in a poll, 0 to 1, with the
// current and the highest value. A hint is what a poller told us it measured of us. A willing
// repairer is a peer whose hint says that it would serve us.
//
// What is kept where:
//
//	agreements per unit and peer   #id_agreement.xml in the unit   repository.md 8.3
//	peers without the unit         #no_au_peers in the unit        repository.md 8.4
//	known peers, statistics        one JSON value (Keeper)         lcap-v3.md 1.5
//
// Invariants: only what we measured ourselves gives another peer the right to repairs, hints
// never do; the highest agreement never sinks; a file that cannot be read is set aside, not
// overwritten.
//
// Peers is safe for concurrent use. It reads no clock: the time is an argument.
package peer
