// Package sip reads SIP (RFC 3261) with its session descriptions (RFC 8866), and announces the media that two sides
// agree upon, and the end points that phones register. It is a helper of cthelperd; README.md beside it says what is
// read, announced and refused.
package sip
