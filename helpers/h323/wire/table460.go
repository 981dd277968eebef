package wire

// h460 is what features of H.460 say in generic data, in the encoding of an OCTET STRING: module SIGNALLING-TRAVERSAL of
// H.460.18 (03/2013) and MEDIA-TRAVERSAL of H.460.19 (03/2013).
var h460 = []definition{
	{"IncomingCallIndication", Sequence, []row{
		{"callSignallingAddress", "TransportAddress", CallSignallingAddress},
		{"callID", "CallIdentifier", 0},
		{"...", "", 0},
	}},
	{"TraversalParameters", Sequence, []row{
		{"multiplexedMediaChannel", "H.245 TransportAddress OPTIONAL", MultiplexedMediaChannel},
		{"multiplexedMediaControlChannel", "H.245 TransportAddress OPTIONAL", MultiplexedMediaControlChannel},
		{"multiplexID", "INTEGER (0..4294967295) OPTIONAL", 0},
		{"keepAliveChannel", "H.245 TransportAddress OPTIONAL", KeepAliveChannel},
		{"keepAlivePayloadType", "INTEGER (0..127) OPTIONAL", 0},
		{"keepAliveInterval", "INTEGER (1..4294967295) OPTIONAL", 0},
		{"...", "", 0},
	}},
}
