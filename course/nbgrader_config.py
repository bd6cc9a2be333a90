"""The course for nbgrader: `source/` is committed, and what nbgrader makes of it stays out of git."""

from nbgrader.preprocessors import ClearMarkScheme, ClearOutput, IncludeHeaderFooter, LockCells

c = get_config()  # noqa: F821 (nbgrader's own)
c.CourseDirectory.course_id = "longalign"
c.Execute.timeout = 180  # seconds a cell; the longest takes half a minute on two slow cores
# Solutions are not executed as they are made: that would take minutes, and the tests execute them all.
c.GenerateSolution.preprocessors = [IncludeHeaderFooter, LockCells, ClearOutput, ClearMarkScheme]
