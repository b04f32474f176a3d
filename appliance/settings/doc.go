// Package settings owns the answers that make a generic image one particular node: their
// checks and defaults, the sealed slot they are kept in, and what the daemon is told of them.
//
// Words: an answers file is text a person writes, KEY=value lines; Answers are its checked
// content; a slot is 2 MiB of the stick's config partition; a Sealed is what a good slot
// holds. The path is
//
//	answers file → ParseAnswers → Answers → Seal (with Keys) → slot → Open → Sealed
//
// and Choose decides between the two slots of a stick. Every step is pure: the same bytes
// in give the same bytes out, no clock, no disk, no random source. Random values (Keys) are
// made by NewKeys only.
//
// Keys of an answers file: those of the classic host questionnaire, which begin with LOCKSS_
// and are listed in the configuration specification, and these of the appliance:
//
//	NETWORK         dhcp (default) or static
//	ADDRESS         address with prefix length, 192.0.2.7/24; needed for static. With dhcp and
//	                INTERFACE: a fixed address of that one interface, all others ask by DHCP
//	GATEWAY         address of the router; static only
//	INTERFACE       MAC address of the interface ADDRESS belongs to; without it the first with a link
//	DNS             addresses of name servers, at most 3; none with dhcp: those of the lease
//	NTP_SERVERS     names or addresses of time servers, at most 4, optionally with :port
//	CACHE_DISKS     label (default): use only disks labelled cacheN; any-blank: also make
//	                content disks of blank disks; serial:A,B: only of blank disks with these serials
//	LOCK_REQUIRE    software (default) or hardware: which write lock of the stick is demanded
//	DETACH          yes (default) or no: cut the stick off the bus after it was read
//	ADMIN_PASSWORD  password of the first user, in clear; only its hash is sealed
//	NODE_ID         32 hex digits; continues the node whose disks carry this id
//
// Lists are separated by commas, semicolons or blanks. LOCKSS_ keys that are not known are
// kept; other unknown keys are errors, because they are mistyped.
//
// # Slot
//
// All integers are little endian (appliance.md 5.1):
//
//	offset  size  field
//	     0     8  magic "PRSVCFG1"
//	     8     4  layout version, 1
//	    12     4  flags: bit 0 sealed, bit 1 network signature present
//	    16     8  generation, from 1
//	    24     8  length of the body, bytes, at most 1.5 MiB
//	    32    32  SHA-256 of the body
//	    64    32  SHA-256 of bytes 0 to 63
//	    96   416  network signature block, zero when absent
//	   512     n  body, then zero to the end of the slot
//
// The body is a ustar archive, names sorted, all times, owners and groups 0, modes 0600:
// appliance.json (canonical JSON: keys sorted, no blanks), config.dat (classic KEY=value
// lines) and keys/<name>. There is one archive for given contents, and Open accepts no other.
package settings
