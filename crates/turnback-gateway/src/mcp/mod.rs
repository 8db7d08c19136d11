//! The agents' door: the Model Context Protocol over HTTP and stdio.
